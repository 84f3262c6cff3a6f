"""For the tests of apps that use aembed: the provider `fake:`, what it can be told, and a fixture for pytest.

    from aembed.testing import fake_provider  # in conftest.py

The fixture is imported, and not found by an entry point, so that installing aembed changes nobody's other tests.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aembed.providers.fake import FakeProvider, Fault, Ledger, Script, Sent

__all__ = ["FakeProvider", "Fault", "Ledger", "Script", "Sent", "fake_provider"]


@pytest.fixture
def fake_provider() -> Iterator[FakeProvider]:
    """What every "fake:NAME" is in this test, however deep in the app it is named. It keeps the texts in its ledger.

    `fake_provider.script = [...]` orders faults; give `fake_provider.named("model", 8)` to an Embedder, or let the app
    name "fake:model" itself.
    """
    with FakeProvider(keep_texts=True).standing_in() as provider:
        yield provider

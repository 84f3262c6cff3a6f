"""The batch API of the simulated service: files, batches that run for hours of a clock that tests advance, and faults.

    faults.py     what can go wrong with one request, and with one batch, as data
    files.py      what was uploaded, and what batches wrote: they expire, and may be deleted
    lines.py      one line of an input file, and what became of it
    batch.py      one batch from its creation to its end, by the clock
    provider.py   all of them: a queue, a list that lags, a bill (lines that ran, and no others)
    openai.py     the same over HTTP in OpenAI's words; voyage.py, mistral.py, gemini.py in theirs

Pure, but for the words: the time is an argument. tests/service/server.py puts it behind sockets.
"""

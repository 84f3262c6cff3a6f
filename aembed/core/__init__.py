"""This folder makes the decisions: nothing here awaits, reads a clock, draws a random number or does I/O.

A function here is given what happened and what time it is, and returns what follows; `dispatch/`, `coalesce/` and
`pipeline/` then do it. So all of it is tested as plain functions. A good order to read it in follows the way of a text:

    changes    what a text is, whether it has to be paid for       spaces     which vectors may stand beside each other
    packing    texts become batches                                pacing/    when a request may go, by the rate limits
    gate       nobody goes while the provider is away              deadlines  how long a request may take
    replies    the bytes of a reply become vectors                 vectors    a vector is checked (encodings: its bytes)
    headers    what a reply says of limits (waits: of waiting)     retrying   an error becomes a verdict
    splitting  what is left of a batch that was refused            weighing   how large a request the server bears
    counting   how the provider counts tokens                      truncation whether it cuts long texts in silence
    billing    what texts may cost that nobody can count           progress   counts of a job, and its report
    filters    which rows a search is about                        learned_limits  what refusals say of limits

`cache`, `pieces`, `quoting`, `sending` and `addresses` are small and stand alone. The laws that comments quote
("Law 3: ...") are promises of the whole engine; each comment says the one that its line keeps.
"""

"""This folder sends a job's texts through the provider's batch API, and collects what comes of them.

    books       the records of batches that a store, or a column, keeps
    collecting  first: what became of batches that are out; their vectors are kept, their files deleted
    settling    what the lines of their results say, a few hundred texts in one transaction
    sink        what a job asks about texts in batches: bought already, out, or to be sent live after all
    submitting  then: texts that are new are gathered, uploaded, and their batches created
    files       the lines of one file, on disk until it is uploaded

What is done about a batch is decided in `core/batch_jobs.py`, and in `core/batch_queue.py` how many tokens go out.
"""

"""This folder sends a job's texts through the provider's batch API, and collects what comes of them.

    books       the records of batches that a store, or a column, keeps
    collecting  first: what became of batches that are out; their results are read, and in the end their files deleted
    settling    what the lines of their results say, some hundred texts at a time
    brought     the vectors that were read, on disk until the job has written its rows
    collected   which lines of them stand in rows by now, and what has to be kept in the store
    sink        what a job asks about texts in batches: bought already, out, or to be sent live after all
    asking      how batches are, and that they are cancelled, without a job
    submitting  then: texts that are new are gathered, uploaded, and their batches created
    files       the lines of one file, on disk until it is uploaded

What is done about a batch is decided in `core/batch_jobs.py`, and in `core/batch_queue.py` how many tokens go out.
"""

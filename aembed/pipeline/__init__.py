"""This folder runs a job: records in, rows out, through nine stages that bounded queues join.

    source -> 1 read -> 2 skip known, join equals -> 3 measure -> 4 pack -> 5 pace -> 6 request
           -> 7 retry, split or give up -> 8 store -> 9 report           (5 to 7 are in dispatch/)

A good order to read it in is the way of a record:

    job          the tasks of a job, how it begins, and how it ends: well, cancelled, stopped or closed
    reading      stage 1: a source becomes chunks             intake    stages 2 and 3: what has to be paid for
    leased_elsewhere  texts that another job is about to send; leasing: how jobs tell each other of that
    batches      stage 4: when a batch is cut, how large      outcomes  stages 8 and 9: what becomes of each entry
    sinks        where vectors go: a list, a stream           store_sinks   a store, a plan
    backlog_sink a table of the user's own                    leasing_sinks what sinks of stores and tables share
    spend_limit  what may be spent; budgets, budget_shares: which budgets there are, and the end of one
    observing    the caller's functions                       logs          the line at the end

`channel` and `results` belong to streams, `planning` to the dry run, `backfilling` and `purchases` to a column of the
user's own table, `moving` to `aembed move`.
"""

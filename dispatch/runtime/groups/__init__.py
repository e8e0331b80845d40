"""Groups: one message, many members, one timeline of rows that every device reads the same way.

`verbs` gathers what may be done: `catalog` has the verbs about groups as a whole, `sends`, `stops`
and `adopting` those about what is said, `reading` the pages and the log. `timeline` is one live
group, `fanout` a message on its way into it, `members` the conversations that are made for it.
"""

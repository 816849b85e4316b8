"""From the records of `tandem bench run` to tables, sentences and pictures; and two runs compared.

`figures` says what is computed of the answers of a repeat, `estimates` what a few repeats tell,
`cells` groups records, `findings` says in words who wins, `stability` what to doubt, `tables`,
`markdown` and `page` show it, `pictures` draws it.
"""

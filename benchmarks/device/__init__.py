"""`tandem bench device`: speed and memory of the drafter, beside its peers.

`cli`: the verb. `models`: random checkpoints, bundles and the peers' files, made once. `arms`: one
process per contender, asked over pipes and stopped while another one is measured. `worker`: the
program in that process; `tandem_arm` and `peer_arms` are what it runs. `measure`: the alternating
run. `report`: table, CSV and records.
"""

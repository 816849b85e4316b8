"""Joules: what can be read on this machine, and what must be modelled.

`meter`: the interface. `ina`, `pmic`, `rapl`, `nvml`: sensors of boards, PCs and GPUs. `modelled`,
`radio`: estimates from a profile. `find`: what is here. `recording`: a meter read in a thread, and
energy between two times. `report`: gross and idle-subtracted joules of an answer.

Only hw_profiles and the standard library are needed; NVML wants nvidia-ml-py (extra `edge`).
"""

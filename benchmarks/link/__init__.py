"""The link between device and edge, emulated: a model without a clock, and a TCP proxy around it.

`capacity` and `trace`: how much a link carries, and when. `settings`: a link profile as the numbers
of the model. `model`: when which byte arrives. `proxy`, `process`: the same between real sockets.
`tc`: the same profile for Linux's own emulator.

What is modelled: IP packets of at most 1,500 bytes with 52 bytes of headers, one first-in-first-out
queue a direction, half of the round trip each way, jitter once per burst, losses as the wait for a
retransmission (TCP delivers in order), outages, the radio's wake-up, TCP's slow start on request.
What is not: packets of acknowledgement, congestion control after slow start, unfair sharing.

All but `cli` and the two `accuracy` modules import only hw_profiles and the standard library, so
that a simulator can run the model on a virtual clock.
"""

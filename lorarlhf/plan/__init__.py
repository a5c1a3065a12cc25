"""Memory and time of a stage before it starts: formulas from shapes, refined by a probe of a few seconds.

shapes.py   the matrices of a base, from its config.json
memory.py   bytes by part, for every phase of a stage
work.py     what a stage will do: its passes, cut from the lengths of the data
planning.py the plan: the peak against what there is, and what to change where it does not fit
pace.py     seconds, from what the probe measured and the work
show.py     the plan as text
peak.py     measure the peak of a block                                        (torch)
probe.py    time and measure forward, backward and decoding on a loaded base   (torch)
"""

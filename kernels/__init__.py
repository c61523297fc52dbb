"""Fused products, each a custom operator beside its plain-torch reference.

`lowrank`: two thin products. `binary`: signs packed eight to a byte. `integer`: codes of 1 to 8 bits as bit
planes, with scales per group. `sparse`: compressed sparse rows. `lowrank_triton` needs Triton and is only
imported when it is asked for.

Operators compute in the type they are given: autocast is off inside them, since it would also round what
they unpack, and choose types that sparse products do not have.
"""

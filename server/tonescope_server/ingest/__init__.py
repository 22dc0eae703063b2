"""The gateway between nodes that send CSI over UDP and a daemon: receive, decode and count, record, forward.

It runs beside nodes, in a process of its own, and is a client of the daemon like any other. How a packet is decoded
is ``csi.decoders.adr018``; what a window or an explanation is, is the daemon's business. Nothing here prints.
"""

"""CSI: what arrives on the wire and in files, up to arrays of amplitudes whose every row has a name.

Tones, frames, windows, cell maps, normalisers and decoders belong here. Models, gradients and gRPC do not.
"""

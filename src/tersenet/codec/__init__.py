"""Integer arrays <-> bytes, numpy only: the codec never sees a tensor."""

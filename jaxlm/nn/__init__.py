"""From token ids to token ids: the network, its training, sampling and scoring. Nothing here knows strings or files."""

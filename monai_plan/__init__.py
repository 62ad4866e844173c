"""monai_plan: from a private, labelled set of medical images to a synthetic one, by a Privacy-preserving Latent Walk.

The method is PLAN (Pennisi et al., MICCAI 2023, arXiv 2307.02984). The rooms, lower ones first: ``data``,
``networks``, ``metrics``, ``gan``, ``latent``, ``audit``, ``bundle``, ``cli``.
"""

__version__ = "0.1.0"

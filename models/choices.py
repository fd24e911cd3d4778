"""What a network may be, by name: where it is made and where a command line is read, the same lists; no torch here."""

FORMS = ("original", "layers", "noisy", "complex")
GENERATORS = ("relu", "linear", "norm", "wide")
CUTS = ("report", "authors")
DEPTHS = (20, 32, 44, 56, 110)
VARIANTS = ("alpha", "beta")
NETWORKS = ("lenet", *(f"resnet{d}-{v}" for d in DEPTHS for v in VARIANTS), "vgg16", "alexnet")

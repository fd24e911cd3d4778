"""Who holds which image. The split is fixed: it does not depend on the run's seed, so that seeds differ in training
only. Classes are dealt evenly; where people recur, whole people are dealt."""

import hashlib

import torch

from experiments.data.images import Data, DataError, Side
from experiments.seeds import generator

VALIDATION = 0.1  # of a training half
SMALL = 64  # pixels of a side up to which a part is kept as float32 0..1


def deal(name, source, settings):
    """Halve train and test between the parties, class by class, cut to the declared subset, and set validation
    apart."""
    notes = list(source.notes)
    parts, digest = {}, hashlib.sha256(source.identity.encode())
    for role, images, people, limit in (
        ("train", source.train, source.people[0], settings.train_images),
        ("test", source.test, source.people[1], settings.test_images),
    ):
        if settings.halves:
            halves = split(images.labels, people, 0.5, name, role, "halves")
        else:
            halves = [torch.arange(len(images))] * 2
        for party, index in zip(("defender", "attacker"), halves, strict=True):
            if limit and limit > len(index):
                raise DataError(
                    f"`{role}_images` must be at most {len(index)}, what one party has of {name}, got {limit}"
                )
            if limit and limit < len(index):
                index = index[split(images.labels[index], None, limit / len(index), name, role, "subset")[0]]
            parts[party, role] = index
        if limit and limit < len(halves[0]):
            notes.append(f"a subset: {limit} of each party's {len(halves[0])} {role} images")

    def take(images, index):
        digest.update(index.numpy().tobytes())
        part = images[index]
        return part.unit() if part.pixels.shape[-1] <= SMALL else part

    def side(party):
        index = parts[party, "train"]
        people = None if source.people[0] is None else source.people[0][index]
        val, train = split(source.train.labels[index], people, VALIDATION, name, "validation")
        return Side(
            take(source.train, index[train]),
            take(source.train, index[val]),
            take(source.test, parts[party, "test"]),
        )

    defender, attacker = side("defender"), side("attacker")
    labels = source.train.labels
    digest.update(labels.numpy().tobytes())
    outputs = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    return Data(name, outputs, defender, attacker, digest.hexdigest()[:16], tuple(notes))


def split(labels, people, share, *purpose):
    """Two sorted index tensors, `share` of the images and the rest: by people where they are told apart, by class
    where an image has one, else at random."""
    if people is not None:
        return grouped(people, share, *purpose)
    if labels.ndim == 2:
        return stratified(torch.zeros(len(labels), dtype=torch.int64), share, *purpose)
    return stratified(labels, share, *purpose)


def stratified(labels, share, *purpose):
    """Two sorted index tensors, `share` of each class (as near as whole images allow, and exactly in all) and the
    rest."""
    rng = generator("split", *purpose)
    classes = labels.unique().tolist()
    members = [(labels == c).nonzero()[:, 0] for c in classes]
    wanted = [share * len(m) for m in members]
    counts = [int(w) for w in wanted]
    missing = round(share * len(labels)) - sum(counts)
    for i in sorted(range(len(classes)), key=lambda i: counts[i] - wanted[i])[:missing]:  # largest remainder first
        counts[i] += 1
    first, rest = [], []
    for m, count in zip(members, counts, strict=True):
        m = m[torch.randperm(len(m), generator=rng)]
        first.append(m[:count])
        rest.append(m[count:])
    return torch.cat(first).sort().values, torch.cat(rest).sort().values


def grouped(people, share, *purpose):
    """Two sorted index tensors between which no person is divided: at least one and up to `share`, and the rest."""
    who, member = people.unique(return_inverse=True)
    order = torch.randperm(len(who), generator=generator("split", *purpose))
    sizes = member.bincount(minlength=len(who))[order]
    chosen = torch.zeros(len(who), dtype=torch.bool)
    chosen[order[: max(1, int((sizes.cumsum(0) <= share * len(people)).sum()))]] = True
    first = chosen[member]
    return first.nonzero()[:, 0], (~first).nonzero()[:, 0]


def content(*images):
    """A hash of every pixel and label of sets that are in memory."""
    digest = hashlib.sha256()
    for part in images:
        digest.update(part.pixels.numpy().tobytes())
        digest.update(part.labels.numpy().tobytes())
    return digest.hexdigest()[:16]

"""Texts of the synthetic feed: captions and comments."""

import numpy as np

BREEDS = {
    "dog": ("corgi", "border collie", "dachshund", "greyhound", "poodle", "mixed-breed dog"),
    "cat": ("tabby", "Siamese cat", "Maine Coon", "tuxedo cat", "ginger cat", "Persian cat"),
    "rabbit": ("lop rabbit", "dwarf rabbit", "Angora rabbit", "Dutch rabbit"),
    "bird": ("budgie", "cockatiel", "parrot", "canary", "zebra finch"),
    "rodent": ("hamster", "guinea pig", "gerbil", "pet rat", "chinchilla"),
    "reptile": ("leopard gecko", "bearded dragon", "corn snake", "tortoise"),
    "horse": ("Shetland pony", "Icelandic horse", "Haflinger", "donkey"),
    "fish": ("goldfish", "betta", "guppy", "koi"),
}
SCENES = (
    "on the sofa", "in the garden", "at the window", "in the kitchen", "on a windy beach", "in fresh snow",
    "by the fireplace", "in autumn leaves", "at the vet", "in a cardboard box", "under the blanket",
    "in the morning sun", "on the balcony", "next to the laptop", "in the back of the van", "at the lake",
)  # fmt: skip
DOINGS = (
    "napping", "waiting for breakfast", "posing", "looking guilty", "showing off", "making new friends",
    "exploring", "refusing to move", "plotting something", "enjoying the quiet", "demanding attention",
    "having the time of their life",
)  # fmt: skip
NAMES = (
    "Biscuit", "Luna", "Pepper", "Milo", "Hazel", "Otto", "Nori", "Clover", "Ziggy", "Maple", "Juniper",
    "Waffles", "Pixel", "Olive", "Bruno", "Saffron", "Moss", "Pickle", "Willow", "Tofu", "Ginger", "Basil",
)  # fmt: skip
TEMPLATES = (
    "{name} the {breed}, {doing} {scene}.",
    "{doing} {scene}: our {breed} {name}.",
    "Just {name} {doing} {scene}. Never a dull day with a {breed}!",
    "Found our {breed} {scene} again, {doing}.",
    "{name} ({breed}) spent the whole afternoon {scene}, {doing}.",
)
REMARKS = (
    "What a face!", "This made my day.", "So cute!", "Those eyes.", "A treat from me!", "I want one!",
    "Mine does exactly the same.", "Please post more of these.", "How old is this little one?", "Adorable.",
    "Perfect shot.", "I am laughing so hard.", "Best thing I have seen all week.", "Sending hugs.",
)  # fmt: skip


def caption(words: tuple[str, str, str], rng: np.random.Generator) -> str:
    """A random caption for a pet's name, breed and scene."""
    name, breed, scene = words
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    text = template.format(name=name, breed=breed, scene=scene, doing=DOINGS[rng.integers(len(DOINGS))])
    return text[0].upper() + text[1:]


def remarks(count: int, rng: np.random.Generator) -> list[str]:
    """Random comment texts."""
    return [REMARKS[index] for index in rng.integers(len(REMARKS), size=count)]

"""A catalogue that is made up: products with attributes, options and prices, and instructions to buy them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random


@dataclass(frozen=True)
class Kind:
    """A sort of product: what it may be like and which options it is sold with."""

    name: str
    department: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]
    prices: tuple[int, int]


@dataclass(frozen=True)
class Product:
    """Something for sale.

    Attributes:
        code: the name on its link.
        title: brand, some of the attributes and the kind.
        attributes: what it is like; those that the title leaves out stand among its features.
        options: name of an option to its values, of which a buyer chooses one.
        price: dollars.
    """

    code: str
    title: str
    kind: Kind
    attributes: tuple[str, ...]
    options: dict[str, tuple[str, ...]]
    price: float


@dataclass(frozen=True)
class Goal:
    """What is to be bought: a kind with these attributes and options, for at most ``price`` dollars.

    Attributes:
        product: one that meets all of it.
    """

    product: Product
    attributes: tuple[str, ...]
    options: dict[str, str]
    price: int

    @property
    def instruction(self) -> str:
        choices = [f"{name} {value}" for name, value in self.options.items()]
        chosen = f", {' and '.join(choices)}" if choices else ""
        wanted = f"{', '.join(self.attributes)} {self.product.kind.name}"
        return f"Find {_article(wanted)} {wanted}{chosen}, for at most {self.price} dollars."


VALUES = {
    "size": ("small", "medium", "large", "x-large"),
    "color": ("black", "white", "navy", "red", "green", "grey", "beige", "purple"),
    "length": ("1 m", "2 m", "3 m", "5 m"),
    "flavor": ("vanilla", "chocolate", "lemon", "mint", "berry", "plain"),
    "pack": ("single", "pack of 2", "pack of 4", "pack of 12"),
    "scent": ("lavender", "citrus", "cedar", "rose", "unscented"),
}
WEAR = ("machine washable", "slim fit", "loose fit", "long sleeve", "water resistant", "quick drying", "organic cotton")
FOOT = ("non slip", "memory foam", "wide fit", "water resistant", "breathable", "arch support", "vegan leather")
POWER = ("fast charging", "wireless", "noise cancelling", "usb-c", "heavy duty", "energy saving", "compact")
FOOD = ("gluten free", "sugar free", "non gmo", "organic", "low sodium", "dairy free", "high protein")
CARE = (
    "cruelty free",
    "fragrance free",
    "sulfate free",
    "long lasting",
    "travel size",
    "for sensitive skin",
    "natural",
)
HOME = (
    "easy to clean",
    "stainless steel",
    "solid wood",
    "space saving",
    "easy to assemble",
    "dishwasher safe",
    "foldable",
)
_KINDS = {
    "clothing": (WEAR, ("size", "color"), (12, 90), ("t-shirt", "hoodie", "jacket", "dress", "jeans", "sweater")),
    "shoes": (FOOT, ("size", "color"), (25, 140), ("running shoes", "sandals", "boots", "slippers", "loafers")),
    "electronics": (POWER, ("color",), (9, 220), ("headphones", "power bank", "keyboard", "desk lamp", "speaker")),
    "cables": (POWER, ("length", "color"), (5, 30), ("charging cable", "hdmi cable", "extension cord")),
    "food": (FOOD, ("flavor", "pack"), (4, 45), ("protein bar", "cookies", "granola", "drink mix", "crackers")),
    "beauty": (CARE, ("scent",), (6, 60), ("shampoo", "body lotion", "deodorant", "hand cream", "face wash")),
    "home": (HOME, ("color",), (15, 260), ("storage box", "side table", "cutting board", "frying pan", "bookcase")),
    "kitchen": (HOME, (), (8, 120), ("kettle", "toaster", "knife set", "water bottle")),
}
KINDS = tuple(
    Kind(name, department, attributes, options, prices)
    for department, (attributes, options, prices, names) in _KINDS.items()
    for name in names
)
_SYLLABLES = (
    "ar",
    "bel",
    "cor",
    "dan",
    "el",
    "fir",
    "gal",
    "hol",
    "ist",
    "jun",
    "kel",
    "lum",
    "mor",
    "nor",
    "ost",
    "pel",
)


@cache
def catalogue(size: int) -> tuple[Product, ...]:
    """Return so many products; a larger catalogue begins with the smaller one."""
    return tuple(_product(number) for number in range(size))


def _product(number: int) -> Product:
    # Each product has a generator of its own, so product 17 is the same in every catalogue that has it.
    random = Random(f"shop/product/{number}")
    kind = random.choice(KINDS)
    attributes = tuple(random.sample(kind.attributes, random.randint(2, 4)))
    options = {name: _values(name, random) for name in kind.options}
    brand = "".join(random.sample(_SYLLABLES, 2)).capitalize()
    shown = " ".join(attributes[: random.randint(0, 2)])
    title = " ".join(f"{brand} {shown} {kind.name}".split())
    price = round(random.uniform(*kind.prices), 2)
    return Product(f"B{number:05d}", title, kind, attributes, options, price)


def _values(name: str, random: Random) -> tuple[str, ...]:
    sold = random.sample(VALUES[name], random.randint(2, len(VALUES[name])))
    # In the order of `VALUES`, not in that of the draw: small before large.
    return tuple(value for value in VALUES[name] if value in sold)


def goal_of(random: Random, products: tuple[Product, ...]) -> Goal:
    """Draw a goal: a product of the catalogue, some of its attributes and a value of each option."""
    product = random.choice(products)
    attributes = tuple(random.sample(product.attributes, random.randint(1, min(3, len(product.attributes)))))
    options = {name: random.choice(values) for name, values in product.options.items()}
    # The product's own price rounded up, and up to 20 dollars more, so there is always a purchase with the full reward.
    return Goal(product, attributes, options, int(product.price) + 1 + 10 * random.randint(0, 2))


def reward_of(goal: Goal, product: Product, chosen: dict[str, str]) -> float:
    """Return WebShop's reward of a purchase (Yao et al., arXiv 2207.01206, section 3.2).

    It is r_type * (attributes met + options met + [price is met]) / (attributes + options + 1). WebShop takes r_type
    from how alike the titles are; here it is 1 for the kind, 0.5 for another kind of the department, else 0.
    """
    same_department = product.kind.department == goal.product.kind.department
    r_type = 1.0 if product.kind == goal.product.kind else 0.5 * same_department
    met = sum(attribute in product.attributes for attribute in goal.attributes)
    met += sum(chosen.get(name) == value for name, value in goal.options.items())
    met += product.price <= goal.price
    return r_type * met / (len(goal.attributes) + len(goal.options) + 1)


def _article(words: str) -> str:
    return "an" if words[0] in "aeio" else "a"

"""Words to make facts of, and names that nobody has."""

from random import Random

GIVEN_NAMES = """Alba Bruno Carla Dario Elena Fabio Greta Hugo Irene Jonas Karin Lorenzo Maria Nils Olga Pavel Rosa
Stefan Tina Umberto Vera Walter Yara Zeno Anna Boris Clara David Emma Felix""".split()
SURNAMES = """Moretti Rossi Lindqvist Okafor Tanaka Silva Novak Hansen Fischer Dubois Ivanova Castro Yilmaz Nguyen
Kowalski Jensen Weber Marino Costa Petrov Larsen Haddad Suzuki Meyer Santos Horvat Keller Brandt Oliveira
Popescu""".split()
CITIES = """Lisbon Porto Vienna Oslo Krakow Turin Ghent Lyon Seville Bergen Tallinn Riga Split Basel Cork Leeds
Utrecht Graz Malmo Zagreb Nairobi Lima Osaka Quito Hanoi Perth Dakar Boston Denver Quebec""".split()
JOBS = """baker carpenter nurse pilot farmer tailor plumber chemist judge sailor painter teacher gardener miner
librarian lawyer dentist cook soldier singer""".split()
THINGS = """protocol engine bridge method language theorem instrument harbor vaccine telescope algorithm dialect
compound recipe festival railway museum circuit reactor dance""".split()
VERBS = "designed invented built created developed".split()
ATTRIBUTES = """
capital
mayor
population
currency
flag
anthem
highest mountain
longest river
national dish
largest city
main export
president
founder
patron saint
area
official language
climate
oldest bridge
airport code
motto
""".strip().splitlines()
ADJECTIVES = """silver broken quiet golden hidden ancient bitter hollow crimson gentle frozen wild distant narrow
sacred restless amber burning lonely velvet""".split()
COLOURS = "red blue green yellow white black grey brown".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
NOUNS = """harbor mirror garden river tower lantern meadow castle forest needle valley basket orchard candle saddle
ribbon anchor kettle barrel cradle window pillow hammer bucket""".split()

_STARTS = "b br c cr d dr f fl g gl gr h j k kl l m n p pl qu r s sk st t tr v w z zh".split()
_VOWELS = "a e i o u ai ea ou".split()
_MIDDLES = "b bl d ff g l ll lm m n nd nt p r rb rl rn s ss st t tt v x z".split()
_ENDS = ["", "", "n", "r", "s", "x", "l", "th", "tt", "ck", "m"]


def make_name(rng: Random) -> str:
    """Return a name of two or three syllables, in small letters, such as zorblatt."""
    name = rng.choice(_STARTS) + rng.choice(_VOWELS)
    for _ in range(rng.choice((1, 2, 2))):
        name += rng.choice(_MIDDLES) + rng.choice(_VOWELS)
    return name + rng.choice(_ENDS)

"""English words that a question is made of, and verbs that ask for the same thing.

Other languages work without: then every word of a question has to be covered by a memory, and the rarest count most.
"""

from functools import lru_cache

_FUNCTION_WORDS = """
a about above across after again against all almost along already also although always am among an and any anybody
anyone anything are aren around as at be because been before being below between both but by can cannot could couldn
currently d did didn do does doesn doing don down during each either else enough ever every everybody everyone
everything far few for from further had hadn has hasn have haven having he her here hers herself him himself his how
however i if in into is isn it its itself just let ll m many may maybe me might mine more most mostly much must my
myself neither never no nobody none nor not nothing now nowadays of off often on once only or other others our ours
ourselves out over own perhaps please possibly probably quite rather re really s same shall shan she should shouldn
since so some somebody someone something sometimes soon still such t than that the their theirs them themselves then
there these they this those though through to today together too toward towards under unless until up upon us usually
ve very was wasn we well were weren what whatever when where whether which while who whom whose why will with within
without won would wouldn yet you your yours yourself yourselves
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""Words that say nothing about what is asked for."""

_ASKING_WORDS = """
actually answer called curious define defined definition describe exactly explain fact find forget forgot forgotten give
happen happened happens hello hey hi know known like look mean meaning means meant originally question quick quickly
recall remember remind say says said stand stands tell thank thanks think want wonder wondering
"""
ASKING_WORDS = frozenset(_ASKING_WORDS.split())
"""Words that ask, unless they are all there is to a question."""

_KINDS = """
city company country date day decade language month nation number part person place region state time town village year
"""
KINDS = frozenset(_KINDS.split())
"""What kind of answer is wanted, after `which` or `what` and before a verb: in which year was ...?"""

AUXILIARIES = frozenset(
    "am are can could did do does had has have is may might must should was were will would".split()
)
"""Verbs that a question puts in front."""

# what stands in one line is taken for the same relation; forms that `stem` brings together are given once. Nouns that
# may name different facts of one thing (its inventor, its designer) never share a line; each shares one with its verb.
_RELATIONS = """
design create make made develop invent build built devise conceive construct
design designer
create creator
invent inventor
make made maker
build built builder
locate situate found lie stand
born birth
born birthplace
born birthday birthdate
die died dead death
write author
start begin launch open
end finish close stop
establish form found
found founder
live reside
live residence
work employ
employ employer
job occupation profession
big large huge
small little tiny
cost price
high height
long length
heavy weigh weight
fast quick
use used utilize employ apply
own belong possess
own owner
lead leader
manage manager
direct director
teach teacher
marry married wife
marry married husband
marry married spouse
buy purchase
country nation
company firm
colour color
publish release issue
discover discovery
paint painter
sing singer
win winner
"""


# the first word of a line stands for the others. Spellings that usually mean something else (left, rose) are not here.
_IRREGULAR = """
begin began begun
break broke broken
bring brought
buy bought
catch caught
choose chose chosen
come came
draw drew drawn
drink drank drunk
drive drove driven
eat ate eaten
fall fell fallen
feel felt
fight fought
fly flew flown
freeze froze frozen
get got gotten
give gave given
go went gone
grow grew grown
have has had
hear heard
hold held
keep kept
know knew known
lead led
learn learnt
lend lent
lose lost
meet met
pay paid
ride rode ridden
ring rang rung
rise risen
run ran
say said
see seen
send sent
shake shook shaken
shoot shot
sing sang sung
sit sat
sleep slept
speak spoke spoken
spend spent
stand stood
steal stole stolen
swim swam swum
take took taken
tell told
think thought
throw threw thrown
understand understood
wake woke woken
wear wore worn
win won
write wrote written
child children
foot feet
man men
mouse mice
person people
tooth teeth
wife wives
woman women
"""
_LEMMAS = {other: first for first, *others in map(str.split, _IRREGULAR.strip().splitlines()) for other in others}


@lru_cache(maxsize=1 << 15)
def stem(word: str) -> str:
    """Return what a word has in common with its other forms: plural, past and -ing are cut off.

    Cuts less than Porter 1980 does, because names must stay apart: only words of four or more plain letters change,
    and a few irregular ones.

    >>> [stem(word) for word in ("designs", "designed", "designing", "cities", "lisbon", "stopped", "room412")]
    ['design', 'design', 'design', 'citi', 'lisbon', 'stop', 'room412']
    """
    word = _LEMMAS.get(word, word)
    if len(word) < 4 or not (word.isascii() and word.isalpha()):
        return word
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-2] if word.endswith(("sses", "shes", "ches", "xes", "zes")) else word[:-1]
    for ending in ("ing", "ed"):
        short = word[: -len(ending)]
        if word.endswith(ending) and len(short) >= 3 and any(letter in "aeiouy" for letter in short):
            word = short[:-1] if short[-1] == short[-2] and short[-1] not in "lsz" else short
            break
    if len(word) >= 4 and word[-1] == "e":
        word = word[:-1]
    return word[:-1] + "i" if len(word) >= 4 and word[-1] == "y" else word


def _number_relations() -> dict[str, frozenset[int]]:
    numbers: dict[str, set[int]] = {}
    for number, line in enumerate(_RELATIONS.strip().splitlines()):
        for word in line.split():
            numbers.setdefault(stem(word), set()).add(number)
    return {word: frozenset(lines) for word, lines in numbers.items()}


RELATIONS = _number_relations()
"""Stem -> the lines of the table it stands in."""
COMMON_STEMS = frozenset(
    stem(word)
    for word in """
    name place person man thing kind type part number group time day month week century world way example color material
    main official full new famous important original current feature service system member role title city town village
    country year date size speed age origin come go take get become show see help contain cause result reason purpose
    goal aim effect history word detail information people
    """.split()
)
"""Stems that anyone may put into a question about a memory which does not have them. No relations: who works where and
who was born where are two facts."""

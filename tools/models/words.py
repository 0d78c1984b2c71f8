"""Word lists for the generated facts; measure.py has others, which no training text holds."""

from __future__ import annotations

import random

ADJECTIVES = (
    "amber ancient bitter black blue brass broken bronze brown clever copper coral crimson crooked curved damp dark "
    "deep double dusty eastern empty fancy feather foggy forest frozen gentle glass golden grand granite green grey "
    "heavy hidden hollow honey humble icy indigo iron ivory jade lazy leather little lonely long loud lucky marble "
    "merry misty mossy narrow nervous noble northern oaken olive orange paper patient pearl pink plain polished proud "
    "purple quiet rapid red ripe rough round royal ruby rusty sandy scarlet secret sharp shiny silent silver simple "
    "sleepy slender small smooth snowy solemn southern spotted square steel stone striped sturdy sunny swift tall "
    "tiny velvet violet warm western white wicker wild winter wooden yellow"
).split()

NOUNS = (
    "acorn anchor apple arrow badge bakery banner barrel basket beacon bell bench blanket boat bottle bowl box bridge "
    "broom brush bucket button cabin cabinet camera candle canoe carpet cart castle cellar chair chapel chest cloak "
    "clock coin compass cottage cradle crate crown cup cupboard curtain desk dome door drawer drum engine envelope "
    "fence ferry fiddle flag flask flute fork fountain garden gate glove goblet hammer harbour harp hat helmet hut "
    "jacket jar kettle key kitchen knife ladder lamp lantern library locker lodge mailbox mantle map mask mill mirror "
    "museum needle oven paddle painting palace pan parcel pen piano pillow pipe plate porch pump quilt rail ring robe "
    "room rope rudder sack saddle safe sail scarf school shed shelf shield ship shovel spoon stable stage statue "
    "stool stove studio sword table tavern telescope tent theatre ticket tower trumpet trunk tunnel umbrella vase "
    "vault violin wagon wallet well wheel whistle window workshop"
).split()

WOMEN = (
    "Agnes Alice Anna Beatrice Bella Bridget Celia Clara Cora Daphne Diana Doris Edith Elsa Fiona Flora Gloria Greta "
    "Hanna Helen Ingrid Irene Joan Julia Karin Kate Laura Lydia Mabel Maria Marta Nadia Nora Olga Ophelia Paula Petra "
    "Rosa Ruth Sara Sofia Tessa Tina Ursula Vera Violet Wanda Willa Yara Zoe"
).split()

MEN = (
    "Adam Albert Arthur Basil Boris Bruno Carl Cedric Conrad David Dmitri Duncan Edgar Erik Felix Franz George Gustav "
    "Henry Hugo Igor Ivan Jacob Jonas Karl Kurt Lars Leon Magnus Martin Nils Norman Oscar Otto Pavel Peter Quentin "
    "Ralph Robert Simon Stefan Theo Thomas Ulrich Victor Vincent Walter Wilfred Xavier Yusuf"
).split()

JOBS = (
    "baker barber carpenter chemist clerk cook dentist doctor driver farmer fisherman gardener goldsmith guard hunter "
    "judge lawyer librarian mason miller miner musician nurse painter pilot plumber poet porter potter printer sailor "
    "sculptor shepherd singer smith soldier surgeon tailor teacher waiter weaver writer"
).split()

ANIMALS = (
    "badger beaver canary cat cow crow dog donkey duck eagle ferret fox frog goat goose hamster hare hawk hedgehog "
    "horse lizard mouse owl parrot peacock pig pigeon pony rabbit rat raven sheep snake spider squirrel swan tiger "
    "turtle weasel wolf"
).split()

COLOURS = (
    "amber black blue bronze brown coral crimson golden green grey indigo ivory jade olive orange pink purple red "
    "scarlet silver violet white yellow"
).split()

COOKED = (
    "baked boiled cold creamy crispy dried fresh fried grilled hot pickled roasted salted smoked sour spicy steamed "
    "stewed stuffed sweet"
).split()

FOODS = (
    "beans beef bread cabbage carrots cheese cherries chicken dumplings eel fish ham herring lamb leeks lentils "
    "mushrooms mussels mutton noodles onions oysters pancakes pears peas plums pork potatoes prawns pumpkin rabbit "
    "rice salmon sausage soup spinach trout turkey turnips walnuts"
).split()

SITES = (
    "attic back barn boat castle chapel church coal court dairy dining factory farm fire front garden guest harbour "
    "hotel kitchen market mill mountain north palace river school south station summer temple theatre tower village "
    "water winter"
).split()

ROOMS = (
    "cabin cellar closet corner cupboard drawer garage hall house hut loft office pantry room shed shelf stable store "
    "tower vault yard"
).split()

TOWN_HEADS = (
    "Ald Ash Bar Beck Black Brack Cold Corn Dal Dun East Eld Fair Fen Glen Grim Hal Har Hazel Holm Kel Kirk Lang Lind "
    "Mar Mel Nor North Oak Pen Raven Red Rock Sal Stan Stone Thorn Tor Wal West Whit Win Wood York"
).split()

TOWN_TAILS = (
    "berg bridge brook burg bury by castle cliff dale den field ford gate ham haven hill holt hurst land ley low mere "
    "minster mouth port ridge shire stead stoke ton vale wald well wick wood worth"
).split()

SURNAME_HEADS = (
    "Abbot Ander Bald Barn Ber Brown Carl Cole Dan Daven Eck Ells Fisch Fried Gold Gren Hart Hoff Jan Jen Kess Lam "
    "Lind Lund Mann Mor Nel Ny Ols Peter Quin Rein Ros Sand Schu Stein Sund Tal Ull Vand Wein Wil"
).split()

SURNAME_TAILS = (
    "aker berg borough dorf ell er ers field gard hardt ing ius kamp ley lin man mark ner now oski quist row sen shaw "
    "son stad stein ter ton well win"
).split()

ATTRIBUTES = (
    "age address captain colour cost depth emblem factory flavour founder height keeper length maker material motto "
    "name number origin owner pattern price purpose size smell song sponsor style symbol title value voltage weight "
    "width"
).split()

VERBS = (
    "admired bought borrowed broke brought carried chased drew followed found helped hid lost met painted praised "
    "repaired saw sold thanked visited warned"
).split()


def invented(r: random.Random) -> str:
    """A word that nobody knows, of two or three syllables."""
    onsets = "b br c ch cl d dr f fl g gr h j k l m n p pl pr qu r s sh sl st t th tr v w z".split()
    ends = ("", "n", "r", "l", "s", "m", "ck", "nd", "rt")
    return "".join(r.choice(onsets) + r.choice("aeiou") + r.choice(ends) for _ in range(r.randint(2, 3)))

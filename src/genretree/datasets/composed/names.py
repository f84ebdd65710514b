"""Random names of artists, albums and tracks from word lists."""

from __future__ import annotations

import numpy as np

# ruff: noqa: SIM905  (a word list is easier to read and to edit as text)

_FIRST = (
    "Ada Alma Amos Anton Astrid Basil Bea Bruno Cecily Clara Cora Dario Delia Edgar Elias Elsa Emeric Enzo Esme "
    "Fabian Fern Florian Freya Gideon Greta Hanna Hugo Ida Ines Ivo Jonas Josefa Juno Kaspar Kira Lena Leopold "
    "Lotte Luca Lydia Mabel Magnus Marek Matilda Milo Mira Nadia Nils Nora Odile Orson Otto Paloma Petra Quentin "
    "Rafael Rosa Rufus Saskia Silas Tamsin Theo Tilda Ulric Una Vera Viktor Wanda Wilma Xenia Yara Zelda"
).split()
_LAST = (
    "Abernathy Alder Ansell Arkwright Bellweather Birch Blackmoor Brandt Calloway Carmody Castellane Crane Dalca "
    "Delacourt Devereux Drummond Eastley Elmhirst Fairbairn Falk Farrow Fenwick Garland Goodspeed Greyling "
    "Halloran Hartmann Holloway Ibsley Ingram Jessop Kestrel Kirkwood Lachance Lindqvist Lovell Marchetti Marlow "
    "Merriweather Montrose Nightingale Northcote Oakes Okonedo Ormond Pemberton Petrov Quill Ravenscroft Redfern "
    "Rookwood Sable Santoro Seabright Sorrel Stanhope Strand Tallis Thornbury Underhill Vance Varga Vesper "
    "Waverly Whitlock Winterbourne Wren Yarrow Zielinski Zoller"
).split()
_ADJECTIVES = (
    "Paper Velvet Quiet Electric Broken Golden Hollow Northern Crooked Silver Distant Midnight Amber Wooden Neon "
    "Gentle Scarlet Frozen Glass Painted Wandering Restless Copper Lucky Marble Secret Tin Violet Burning Salt "
    "Borrowed Second Little Wild Plastic Sunday Early Hidden Ivory Lonely Misty Rusty Stolen Tender Upside Winter "
    "Yellow Ashen Bitter Cotton Dizzy Feral Graceful Humble Idle Jagged Kindred Lunar Modest Nomad Olive Pastel "
    "Ragged Sleepy Timid Urban Vivid Weary Young Zigzag"
).split()
_NOUNS = (
    "Lanterns Foxes Harbours Satellites Letters Wolves Gardens Mirrors Radios Sparrows Windows Engines Ghosts "
    "Kites Oceans Bridges Cassettes Anchors Comets Drifters Echoes Feathers Giants Horizons Islands Jackets Keys "
    "Lights Machines Neighbours Orchards Pilots Quarters Rivers Shadows Trains Umbrellas Valleys Wheels Arrows "
    "Balloons Candles Daughters Elephants Fables Gardeners Hunters Idols Jewels Kings Ladders Moths Needles Owls "
    "Parades Rooms Sailors Towers Uncles Voyagers Weavers Yards Almanacs Beacons Cartographers Diaries Embers "
    "Ferries Glaciers Hearths"
).split()
_FORMS = {
    "Symphony": ("Symphony", "Overture", "Suite for Orchestra", "Symphonic Poem"),
    "Opera": ("Aria", "Cavatina", "Scene and Aria", "Arietta"),
    "Solo": ("Prelude", "Sonata", "Étude", "Fantasia", "Nocturne"),
    "Chamber": ("Quartet", "Trio", "Divertimento", "Sonata", "Serenade"),
}
_BANDS = {
    "Adult_alternative_rock",
    "Uplifting_anthemic_rock",
    "Classic_indie_pop",
    "Dance_pop",
    "Contemporary_dance_pop",
}


def artist_name(seed: int, leaf: str, leaf_index: int, artist: int) -> str:
    """Return the name of an artist, unique in a corpus of up to 300 artists for each of 16 leaves."""
    band = leaf in _BANDS
    first, second = (_ADJECTIVES, _NOUNS) if band else (_FIRST, _LAST)
    count = len(first) * len(second)
    # 2741 is prime and does not divide any count, so different numbers below `count` give different names.
    number = (2741 * (artist * 16 + leaf_index) + 7919 * seed) % count
    pair = f"{first[number % len(first)]} {second[number // len(first)]}"
    return f"The {pair}" if band else pair


def album_name(rng: np.random.Generator, leaf: str) -> str:
    """Return a random album name."""
    if leaf in _FORMS:
        forms = _FORMS[leaf]
        return f"{forms[rng.integers(len(forms))]}s, Op. {rng.integers(1, 120)}".replace("ys,", "ies,")
    return f"{_pick(rng, _ADJECTIVES)} {_pick(rng, _NOUNS)}"


def track_title(rng: np.random.Generator, leaf: str, key: str) -> str:
    """Return a random track title; classical titles have form and key."""
    if leaf in _FORMS:
        forms = _FORMS[leaf]
        return f"{forms[rng.integers(len(forms))]} No. {rng.integers(1, 13)} in {key}"
    noun = _pick(rng, _NOUNS)
    shapes = (
        f"{_pick(rng, _ADJECTIVES)} {noun}",
        f"All the {noun}",
        f"{noun} for {_pick(rng, _FIRST)}",
        f"Dear {_pick(rng, _FIRST)}",
    )
    return shapes[rng.integers(len(shapes))]


def _pick(rng: np.random.Generator, words: list[str]) -> str:
    return words[rng.integers(len(words))]

"""File suffixes of audio formats, used to find audio files in folders; the content determines the format."""

from __future__ import annotations

# The suffixes of each container that `genretree.sound.containers.sniff` recognises, so that every file that can be
# decoded is also found in a folder.
SUFFIXES_OF = {
    "wav": "wav wave bwf rf64",
    "w64": "w64",
    "aiff": "aif aiff aifc",
    "au": "au snd",
    "caf": "caf",
    "voc": "voc",
    "nist": "nist sph",
    "svx": "8svx 16svx svx iff",
    "flac": "flac",
    "ogg": "ogg oga ogx ogv opus spx",
    "mp3": "mp3 mp2 mp1 mpa mpga",
    "aac": "aac adts",
    "ac3": "ac3 eac3 ec3",
    "dts": "dts",
    "amr": "amr awb",
    "mp4": "m4a m4b m4p m4r mp4 m4v mov qt 3gp 3gpp 3g2",
    "asf": "wma asf wmv",
    "matroska": "mka mkv webm weba",
    "wavpack": "wv",
    "ape": "ape",
    "tta": "tta",
    "musepack": "mpc mp+ mpp",
    "dsf": "dsf",
    "flv": "flv f4a f4v",
    "avi": "avi",
    "mpeg-ps": "mpg mpeg vob",
    "mpeg-ts": "ts",
}
SUFFIXES = frozenset(f".{suffix}" for suffixes in SUFFIXES_OF.values() for suffix in suffixes.split())

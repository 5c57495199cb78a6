//! The options that a StorageClass may set for xfs.

use super::Takes::{Keys, One};
use super::{Flag, MAYBE_SWITCH, ON, SWITCH};
use crate::options::value::Value::{self, MaybeOneOf, Nothing, Number};

pub(super) const FLAGS: &[Flag] = &[
    Flag { name: "-K", takes: One(Nothing) },
    Flag { name: "-L", takes: One(Value::Label(12)) },
    Flag { name: "-b", takes: Keys(&[("size", Number)]) },
    Flag { name: "-s", takes: Keys(&[("size", Number)]) },
    Flag {
        name: "-d",
        takes: Keys(&[
            ("agcount", Number),
            ("agsize", Number),
            ("su", Number),
            ("sw", Number),
            ("sunit", Number),
            ("swidth", Number),
            ("noalign", Nothing),
            ("projinherit", Number),
            ("extszinherit", Number),
            ("cowextsize", Number),
            ("concurrency", Number),
        ]),
    },
    Flag {
        name: "-i",
        takes: Keys(&[
            ("size", Number),
            ("maxpct", Number),
            ("sparse", MAYBE_SWITCH),
            ("nrext64", MAYBE_SWITCH),
            ("exchange", MAYBE_SWITCH),
        ]),
    },
    Flag {
        name: "-l",
        takes: Keys(&[
            ("size", Number),
            ("internal", MaybeOneOf(&["1"])),
            ("su", Number),
            ("sunit", Number),
            ("agnum", Number),
            ("lazy-count", ON),
            ("concurrency", Number),
        ]),
    },
    Flag {
        name: "-m",
        takes: Keys(&[
            ("crc", ON),
            ("finobt", SWITCH),
            ("rmapbt", SWITCH),
            ("reflink", SWITCH),
            ("bigtime", SWITCH),
            ("inobtcount", SWITCH),
            ("autofsck", SWITCH),
        ]),
    },
    Flag { name: "-n", takes: Keys(&[("size", Number), ("ftype", ON), ("parent", MAYBE_SWITCH)]) },
];

pub(super) const MOUNT: &[(&str, Value)] = &[
    ("allocsize", Number),
    ("discard", Nothing),
    ("nodiscard", Nothing),
    ("grpid", Nothing),
    ("bsdgroups", Nothing),
    ("nogrpid", Nothing),
    ("sysvgroups", Nothing),
    ("filestreams", Nothing),
    ("inode32", Nothing),
    ("inode64", Nothing),
    ("largeio", Nothing),
    ("nolargeio", Nothing),
    ("logbufs", Number),
    ("logbsize", Number),
    ("noalign", Nothing),
    ("sunit", Number),
    ("swidth", Number),
    ("swalloc", Nothing),
    ("wsync", Nothing),
    ("quota", Nothing),
    ("noquota", Nothing),
    ("uquota", Nothing),
    ("usrquota", Nothing),
    ("uqnoenforce", Nothing),
    ("gquota", Nothing),
    ("grpquota", Nothing),
    ("gqnoenforce", Nothing),
    ("pquota", Nothing),
    ("prjquota", Nothing),
    ("pqnoenforce", Nothing),
];

//! The options that a StorageClass may set for xfs.

use super::Takes::{Keys, One};
use super::{Flag, MAYBE_SWITCH, ON, SWITCH, Table};
use crate::options::value::Value::{self, MaybeOneOf, Nothing, Number};

pub(super) const TABLE: Table = Table {
    mkfs: MKFS,
    mount: MOUNT,
    #[cfg(test)]
    refused: tests::REFUSED,
};

const MKFS: &[Flag] = &[
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

const MOUNT: &[(&str, Value)] = &[
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

#[cfg(test)]
mod tests {
    use crate::options::tables::Refused;

    pub(super) const REFUSED: Refused = Refused {
        mkfs: &[
            "-Kf",
            "-fK",
            "-K1",
            "-d name=/dev/sda",
            "-d file=1",
            "-d file",
            "-d size=1g",
            "-d rtinherit=1",
            "-l logdev=/dev/sda",
            "-l name=/dev/sda",
            "-l file",
            "-l internal=0",
            "-r rtdev=/dev/sda",
            "-r size=1g",
            "-p /etc/passwd",
            "-c options=/etc/x",
            "-m uuid=11111111-2222-3333-4444-555555555555",
            "-m crc=0",
            "-m crc",
            "-m crc=1,crc=1",
            "-n ftype=0",
            "-N",
            "-b size=4k,size=4k",
            "-i maxpct",
            "-d agcount=4 agsize=1",
            "-m metadir=1",
        ],
        mount: &["logdev=/dev/sda", "rtdev=/dev/sda", "nouuid", "wsync=1", "nobarrier", "data=ordered", "dax=always"],
    };
}

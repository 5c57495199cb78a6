//! The scenarios in start order: long ones first, so that the last ones to finish are short.

mod as_root;
mod bad_input;
mod bench;
mod by_hand;
mod changes;
mod cluster;
mod concurrency;
mod discards;
mod disk;
mod disk_replaced;
mod encrypted;
mod expand;
mod field;
mod full_pool;
mod group;
mod hung_tools;
mod in_use;
mod kill;
mod lifecycle;
mod limits;
mod lost_disk;
mod never_format;
mod other_tenants;
mod power_cut;
mod processes;
mod sanity;
mod selinux;
mod snapshot;
mod speed;
mod stats;
mod steps;
mod stop_and_start;
mod thin;
mod user_namespaces;

use std::time::Duration;

use quarry_vm::System;

use crate::scenario::Scenario;

/// The sweeps: a soak in slices runs a part of each of these in every slice, and each other scenario in one slice.
pub const SWEEPS: &[&str] = &[
    "disk-kill-points",
    "disk-kill-tree",
    "disk-power-cut",
    "kill-at-every-step",
    "kill-at-every-expansion-step",
    "kill-at-every-copy-step",
    "kill-at-every-thin-step",
    "kill-at-every-encrypted-step",
    "kill-at-every-pool-step",
    "kill-at-every-group-step",
    "kill-during-expansion",
    "kill-tree-during",
    "kill-quarry-alone",
    "power-cut",
    "power-cut-copies",
    "power-cut-encrypted",
    "power-cut-encrypted-disks",
    "power-cut-thin",
    "cluster-controllers",
    "copy-speed",
];

/// The only guest that a scenario runs in, if it needs one.
pub fn only_in(name: &str) -> Option<System> {
    match name {
        // It has the compiler for the policy.
        "selinux" => Some(System::Bookworm),
        // An older mount(8) maps no users.
        "systemd" | "user-namespaces" => Some(System::Trixie),
        _ => None,
    }
}

/// All of them.
pub fn all() -> Vec<Scenario> {
    let mut all = own();
    all.extend(field::all());
    all
}

fn own() -> Vec<Scenario> {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    vec![
        Scenario {
            name: "as-root",
            about: "the crates' tests of real mounts and real filesystems, which need root",
            limit: minutes(40),
            run: |context| Box::pin(as_root::run(context)),
        },
        Scenario {
            name: "lifecycle",
            about: "the complete life of a volume: each filesystem, raw block; striped and raid1",
            limit: minutes(10),
            run: |context| Box::pin(lifecycle::run(context)),
        },
        Scenario {
            name: "expand",
            about: "volumes become larger, in use and not: every layout, filesystem and raw block, to the last extent",
            limit: minutes(15),
            run: |context| Box::pin(expand::run(context)),
        },
        Scenario {
            name: "expand-old-bytes",
            about: "what a former owner wrote where a volume becomes larger is never visible, nor are its signatures",
            limit: minutes(12),
            run: |context| Box::pin(expand::old_bytes::run(context)),
        },
        Scenario {
            name: "snapshot",
            about: "snapshots while a volume is used; restored and cloned to other layouts, sizes and whole disks",
            limit: minutes(30),
            run: |context| Box::pin(snapshot::run(context)),
        },
        Scenario {
            name: "full-copy",
            about: "snapshots with `method: copy`, over kills and a power cut; they need nothing of their source",
            limit: minutes(20),
            run: |context| Box::pin(snapshot::full_copy::run(context)),
        },
        Scenario {
            name: "thin-pools",
            about: "thin pools are created, also half-made ones; their ratio holds; what happens when they are full",
            limit: minutes(15),
            run: |context| Box::pin(thin::pools(context)),
        },
        Scenario {
            name: "thin-volumes",
            about: "volumes in a thin pool: snapshots, restored and cloned at once and to other pools, larger, power cuts",
            limit: minutes(30),
            run: |context| Box::pin(thin::volumes(context)),
        },
        Scenario {
            name: "discards",
            about: "the space of deleted files is discarded as the class says: online, periodic, none",
            limit: minutes(15),
            run: |context| Box::pin(discards::run(context)),
        },
        Scenario {
            name: "limits",
            about: "I/O limits of volumes in the cgroups of pods: measured rates, changes, a restart, required limits",
            limit: minutes(20),
            run: |context| Box::pin(limits::run(context)),
        },
        Scenario {
            name: "power-cut-copies",
            about: "power cuts while snapshots are taken and deleted, and while volumes are restored and cloned",
            limit: minutes(15),
            run: |context| Box::pin(snapshot::power::run(context)),
        },
        Scenario {
            name: "power-cut-thin",
            about: "the same power cuts in a thin pool",
            limit: minutes(15),
            run: |context| Box::pin(snapshot::power::in_thin_pool(context)),
        },
        Scenario {
            name: "many-snapshots",
            about: "many snapshots of one volume, thick and thin: listed, restored, and deleted in any order",
            limit: minutes(15),
            run: |context| Box::pin(snapshot::many::run(context)),
        },
        Scenario {
            name: "snapshot-lost-disk",
            about: "the disk of a snapshot is lost while its volume goes on, and comes back: it is never restored from",
            limit: minutes(15),
            run: |context| Box::pin(snapshot::lost_disk::run(context)),
        },
        Scenario {
            name: "copy-speed",
            about: "the time of a copy compared with dd, for each kind of source and target, full and with holes",
            limit: minutes(90),
            run: |context| Box::pin(snapshot::speed::run(context)),
        },
        Scenario {
            name: "disk-lifecycle",
            about: "the life of a volume on whole disks: virtio, NVMe, SCSI, 512- and 4096-byte sectors, all wipe policies",
            limit: minutes(15),
            run: |context| Box::pin(disk::lifecycle::run(context)),
        },
        Scenario {
            name: "disk-refused",
            about: "disks that hold or may hold data, or are in use: each is rejected by name, and no byte changes",
            limit: minutes(15),
            run: |context| Box::pin(disk::refused::run(context)),
        },
        Scenario {
            name: "volume-group",
            about: "a volume group is made of empty disks, and extended; foreign disks, one taken out, and all of them gone",
            limit: minutes(20),
            run: |context| Box::pin(group::run(context)),
        },
        Scenario {
            name: "group-refused",
            about: "no disk that holds or may hold data becomes a part of a volume group: each is named, and no byte changes",
            limit: minutes(20),
            run: |context| Box::pin(group::refused::run(context)),
        },
        Scenario {
            name: "disk-pulled",
            about: "disks are removed, renamed, added, fail, are swapped; twenty callers want ten of them",
            limit: minutes(15),
            run: |context| Box::pin(disk::pulled::run(context)),
        },
        Scenario {
            name: "disk-wiped",
            about: "a deleted volume of 1 TiB: its disk is reported as being wiped, and the wipe resumes after a kill",
            limit: minutes(10),
            run: |context| Box::pin(disk::wiped::run(context)),
        },
        Scenario {
            name: "disk-expand",
            about: "disks become larger, and then the volumes on them: used or not, killed at each point, in a power cut",
            limit: minutes(20),
            run: |context| Box::pin(disk::expanded::run(context)),
        },
        Scenario {
            name: "disk-kill-points",
            about: "quarry is killed at each fault point of a whole disk's claim, use, wipe and release",
            limit: minutes(12),
            run: |context| Box::pin(kill::disk::points(context)),
        },
        Scenario {
            name: "disk-kill-tree",
            about: "quarry and mkfs are killed together on whole disks, at seeded instants",
            limit: minutes(12),
            run: |context| Box::pin(kill::disk::tree(context)),
        },
        Scenario {
            name: "disk-power-cut",
            about: "power cuts while whole disks are claimed, used and released; some unflushed writes survive",
            limit: minutes(15),
            run: |context| Box::pin(power_cut::on_disks(context)),
        },
        Scenario {
            name: "sanity-mount",
            about: "csi-sanity on ext4",
            limit: minutes(20),
            run: |context| Box::pin(sanity::mount(context)),
        },
        Scenario {
            name: "sanity-block",
            about: "csi-sanity on raw block volumes",
            limit: minutes(20),
            run: |context| Box::pin(sanity::block(context)),
        },
        Scenario {
            name: "sanity-mount-apart",
            about: "csi-sanity on ext4, controller and node in two processes over mutual TLS",
            limit: minutes(20),
            run: |context| Box::pin(sanity::mount_apart(context)),
        },
        Scenario {
            name: "sanity-block-apart",
            about: "csi-sanity on raw block volumes, controller and node in two processes",
            limit: minutes(20),
            run: |context| Box::pin(sanity::block_apart(context)),
        },
        Scenario {
            name: "disk-sanity-mount",
            about: "csi-sanity on ext4, over a pool of whole disks",
            limit: minutes(20),
            run: |context| Box::pin(sanity::disk_mount(context)),
        },
        Scenario {
            name: "disk-sanity-block",
            about: "csi-sanity on raw block volumes, over a pool of whole disks",
            limit: minutes(20),
            run: |context| Box::pin(sanity::disk_block(context)),
        },
        Scenario {
            name: "cluster-placement",
            about: "three nodes and two controllers: volumes are created where requested, and both controllers know",
            limit: minutes(10),
            run: |context| Box::pin(cluster::placement::run(context)),
        },
        Scenario {
            name: "cluster-away",
            about: "a node is cut off, loses power, restarts: calls fail at once, others keep working, nothing is lost",
            limit: minutes(12),
            run: |context| Box::pin(cluster::away::run(context)),
        },
        Scenario {
            name: "cluster-replaced",
            about: "a node with other disks or another's address: nothing is created or deleted on the wrong node",
            limit: minutes(12),
            run: |context| Box::pin(cluster::replaced::run(context)),
        },
        Scenario {
            name: "cluster-controllers",
            about: "controllers are killed at bad moments, and get the same call at once: one volume or none",
            limit: minutes(12),
            run: |context| Box::pin(cluster::controllers::run(context)),
        },
        Scenario {
            name: "cluster-certificates",
            about: "which peers are accepted, wrong clocks, and a new authority during calls",
            limit: minutes(15),
            run: |context| Box::pin(cluster::certificates::run(context)),
        },
        Scenario {
            name: "kill-at-every-step",
            about: "quarry is killed at each fault point of each step, then the call is repeated",
            limit: minutes(12),
            run: |context| Box::pin(kill::sweep::run(context)),
        },
        Scenario {
            name: "kill-tree-during",
            about: "quarry, lvm and mkfs are killed together at seeded instants",
            limit: minutes(15),
            run: |context| Box::pin(kill::tree::run(context)),
        },
        Scenario {
            name: "kill-quarry-alone",
            about: "quarry is killed, its lvm or mkfs keeps running, and the retry comes at once",
            limit: minutes(15),
            run: |context| Box::pin(kill::alone::run(context)),
        },
        Scenario {
            name: "kill-at-every-expansion-step",
            about: "quarry is killed at each fault point of an expansion, then it is repeated, or the volume is deleted",
            limit: minutes(15),
            run: |context| Box::pin(kill::expand::points_of_expansion(context)),
        },
        Scenario {
            name: "kill-at-every-copy-step",
            about: "quarry is killed at each fault point of a snapshot, a restored volume and a clone, then it is repeated",
            limit: minutes(20),
            run: |context| Box::pin(kill::copy::points_of_copies(context)),
        },
        Scenario {
            name: "encrypted-thin",
            about: "lives of encrypted volumes in a thin pool: no key and no plain byte is seen, and no header is left",
            limit: minutes(20),
            run: |context| Box::pin(encrypted::thin(context)),
        },
        Scenario {
            name: "encrypted-disks",
            about: "the same on whole disks",
            limit: minutes(20),
            run: |context| Box::pin(encrypted::disks(context)),
        },
        Scenario {
            name: "encrypted-lvm",
            about: "the same on LVM, with every filesystem and layout",
            limit: minutes(25),
            run: |context| Box::pin(encrypted::lvm(context)),
        },
        Scenario {
            name: "encrypted-interference",
            about: "encrypted volumes, and what tenants, operators and a killed cryptsetup do to them",
            limit: minutes(15),
            run: |context| Box::pin(encrypted::interference(context)),
        },
        Scenario {
            name: "encrypted-copies",
            about: "snapshots, restores and clones of encrypted volumes: the same contents and keys, and none is left",
            limit: minutes(40),
            run: |context| Box::pin(encrypted::copies(context)),
        },
        Scenario {
            name: "encrypted-many",
            about: "after a reboot, many encrypted volumes are opened in the memory that the docs name",
            limit: minutes(80),
            run: |context| Box::pin(encrypted::many(context)),
        },
        Scenario {
            name: "encrypted-rekey",
            about: "the change of a passphrase is killed, or the power goes: one of the two opens the volume",
            limit: minutes(25),
            run: |context| Box::pin(encrypted::rekeyed(context)),
        },
        Scenario {
            name: "encrypted-refused",
            about: "encrypted volumes: wrong keys, foreign data and lost headers change nothing",
            limit: minutes(15),
            run: |context| Box::pin(encrypted::refusals(context)),
        },
        Scenario {
            name: "kill-at-every-encrypted-step",
            about: "quarry is killed at each fault point of an encrypted volume, also while it grows or is copied",
            limit: minutes(30),
            run: |context| Box::pin(encrypted::points(context)),
        },
        Scenario {
            name: "power-cut-encrypted",
            about: "power cuts while encrypted volumes are created, staged, expanded and deleted: no key comes back",
            limit: minutes(25),
            run: |context| Box::pin(power_cut::encrypted(context)),
        },
        Scenario {
            name: "power-cut-encrypted-disks",
            about: "the same on whole disks; some unflushed writes survive",
            limit: minutes(25),
            run: |context| Box::pin(power_cut::encrypted_on_disks(context)),
        },
        Scenario {
            name: "kill-at-every-thin-step",
            about: "quarry is killed at each fault point of a volume in a thin pool, of its snapshot and of its copies",
            limit: minutes(20),
            run: |context| Box::pin(kill::thin::points(context)),
        },
        Scenario {
            name: "kill-at-every-pool-step",
            about: "quarry is killed at each fault point while it creates thin pools, and while it extends one",
            limit: minutes(30),
            run: |context| Box::pin(kill::thin_pool::points_of_pools(context)),
        },
        Scenario {
            name: "kill-at-every-group-step",
            about: "quarry is killed, or the power goes, while it makes a volume group and while it adds a disk to it",
            limit: minutes(40),
            run: |context| Box::pin(kill::group::points_of_groups(context)),
        },
        Scenario {
            name: "kill-during-expansion",
            about: "quarry is killed with or without its lvextend, and while space is reserved",
            limit: minutes(15),
            run: |context| Box::pin(kill::expand::during(context)),
        },
        Scenario {
            name: "sweep-can-fail",
            about: "with a safeguard disabled, the sweeps find the violation",
            limit: minutes(12),
            run: |context| Box::pin(kill::broken::run(context)),
        },
        Scenario {
            name: "never-format",
            about: "data is never formatted, wiped or removed: damage, foreign volumes, old metadata, unknown records",
            limit: minutes(15),
            run: |context| Box::pin(never_format::run(context)),
        },
        Scenario {
            name: "hung-tools",
            about: "a hung lvm is killed if it only reports, waited for if it makes changes, and blocks nothing else",
            limit: minutes(10),
            run: |context| Box::pin(hung_tools::run(context)),
        },
        Scenario {
            name: "in-use",
            about: "mounted, published or open volumes stay; second targets, read-only, odd states",
            limit: minutes(10),
            run: |context| Box::pin(in_use::run(context)),
        },
        Scenario {
            name: "lost-disk",
            about: "one of two disks is removed: raid1 and healthy volumes work, a broken one reports why, none is lost",
            limit: minutes(15),
            run: |context| Box::pin(lost_disk::run(context)),
        },
        Scenario {
            name: "user-namespaces",
            about: "volumes with the mapped users of pods with hostUsers: false, on each filesystem",
            limit: minutes(10),
            run: |context| Box::pin(user_namespaces::run(context)),
        },
        Scenario {
            name: "selinux",
            about: "the files of a volume have the label of its pod; another label is rejected, on each filesystem",
            limit: minutes(12),
            run: |context| Box::pin(selinux::run(context)),
        },
        Scenario {
            name: "disk-replaced",
            about: "a disk is lost for good: the commands that doctor prints for this state repair the pool",
            limit: minutes(15),
            run: |context| Box::pin(disk_replaced::run(context)),
        },
        Scenario {
            name: "bad-input",
            about: "invalid requests get a clear error, and nothing runs",
            limit: minutes(10),
            run: |context| Box::pin(bad_input::run(context)),
        },
        Scenario {
            name: "power-cut",
            about: "power cuts while volumes are created, staged and used, on disks that lose what was not flushed",
            limit: minutes(15),
            run: |context| Box::pin(power_cut::run(context)),
        },
        Scenario {
            name: "other-tenants-bytes",
            about: "earlier data on the disk is never visible: raw volumes, 1 TiB of it, filesystems, access types",
            limit: minutes(15),
            run: |context| Box::pin(other_tenants::run(context)),
        },
        Scenario {
            name: "concurrency",
            about: "many concurrent callers: every volume exists once, every caller gets an answer",
            limit: minutes(30),
            run: |context| Box::pin(concurrency::run(context)),
        },
        Scenario {
            name: "full-metadata",
            about: "a volume group whose metadata area is full: no capacity, no new volume, other calls keep working",
            limit: minutes(12),
            run: |context| Box::pin(full_pool::metadata_area(context)),
        },
        Scenario {
            name: "full-pool",
            about: "what GetCapacity reports fits to the last extent, and one more does not",
            limit: minutes(15),
            run: |context| Box::pin(full_pool::run(context)),
        },
        Scenario {
            name: "stats",
            about: "stage, publish, stats, delete on each filesystem and raw block",
            limit: minutes(10),
            run: |context| Box::pin(stats::run(context)),
        },
        Scenario {
            name: "by-hand",
            about: "changes made by hand are visible within ten seconds, with udevd and without",
            limit: minutes(10),
            run: |context| Box::pin(by_hand::run(context)),
        },
        Scenario {
            name: "bench",
            about: "quarry bench beside somebody else's logical volume removes only what it created",
            limit: minutes(15),
            run: |context| Box::pin(bench::run(context)),
        },
        Scenario {
            name: "changes-meanwhile",
            about: "others change the volume group while quarry reads it and creates volumes",
            limit: minutes(10),
            run: |context| Box::pin(changes::run(context)),
        },
        Scenario {
            name: "processes",
            about: "how many programs each call starts",
            limit: minutes(10),
            run: |context| Box::pin(processes::run(context)),
        },
        Scenario {
            name: "speed",
            about: "CreateVolume compared with plain lvcreate, memory, and processes in an idle minute",
            limit: minutes(10),
            run: |context| Box::pin(speed::run(context)),
        },
        Scenario {
            name: "stop-and-start",
            about: "wrong configurations, late volume groups, and SIGTERM at bad moments",
            limit: minutes(10),
            run: |context| Box::pin(stop_and_start::run(context)),
        },
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_scenario_has_a_name_of_its_own_and_each_sweep_is_one() {
        let scenarios = all();
        let names: BTreeSet<&str> = scenarios.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), scenarios.len());
        let missing: Vec<&&str> = SWEEPS.iter().filter(|sweep| !names.contains(*sweep)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}

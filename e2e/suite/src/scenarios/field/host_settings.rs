//! The host's LVM settings, and tenants whose bytes look like the host's own storage.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tonic::Code;

use crate::csi::{Ask, MIB, Made, refused, retry};
use crate::node::{FAULTS, GROUP, Node, device};
use crate::scenario::{Passed, Scenario};
use crate::scenarios::disk_replaced::advice;
use crate::scenarios::steps::{close, open};

const DISK: u64 = 512 << 20;
/// Takes precedence over lvm.conf.
const LOCAL: &str = "/etc/lvm/lvmlocal.conf";
/// Settings of an operator, all at once: sections of lvm.conf, each of which has caused trouble for a real
/// user.
const SETTINGS: [(&str, &str); 4] = [
    (
        "reports",
        r#"report { mark_hidden_devices=0 prefixes=1 quoted=0 columns_as_rows=1 headings=0 separator="|" aligned=0
           two_word_unknown_device=1 binary_values_as_numeric=0 output_format="json_std" list_item_separator=";" compact_output=1
           buffered=0 time_format="%H" lvs_sort_full="no_such_column" vgs_sort_full="no_such_column" pvs_cols_full="x" }
           global { units="s" si_unit_consistency=0 suffix=1 }"#,
    ),
    (
        "logs, and a command that does nothing",
        r#"log { prefix="x" silent=1 verbose=3 file="/nowhere/lvm.log" level=7 indent=1 overwrite=1 command_names=1
           report_command_log=1 activation=1 debug_classes=["all"] }
           global { test=1 }"#,
    ),
    (
        "devices, hints, history",
        r#"devices { hints="all" scan_lvs=1 scan=["/nowhere"] allow_changes_with_duplicate_pvs=1 obtain_device_list_from_udev=1 }
           metadata { record_lvs_history=1 }
           allocation { use_blkid_wiping=0 wipe_signatures_when_zeroing_new_lvs=0 zero_metadata=0 }
           activation { auto_set_activation_skip=0 monitoring=1 use_linear_target=0 }"#,
    ),
    ("a stop at errors, such as at a key that lvm does not know", "config { checks=1 abort_on_errors=1 }"),
];

/// All of them.
pub fn all() -> Vec<Scenario> {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    vec![
        Scenario {
            name: "host-settings",
            about: "lvm.conf with every relevant setting, its filters, the devices file: honoured or harmless, and reported",
            limit: minutes(15),
            run: |_| Box::pin(settings()),
        },
        Scenario {
            name: "tenant-tricks",
            about: "a tenant writes volume groups, copies of the pool's disk and arrays into raw volumes: no effect",
            limit: minutes(15),
            run: |_| Box::pin(tricks()),
        },
    ]
}

async fn settings() -> Passed {
    let mut node = Node::start("host-settings", &[DISK, DISK]).await?;
    let raid = node.csi.create(&Ask::mount("raid", "ext4").parameter("layout", "raid1")).await?;
    for (what, text) in SETTINGS {
        configure(&mut node, text).await?;
        life(&node, "tried").await.with_context(|| format!("with other settings of {what}"))?;
        let listed = node.csi.list().await?;
        ensure!(listed.len() == 1 && listed[0].volume_id == raid.id, "with other settings of {what}: {listed:?}");
    }
    let history =
        node.vm.sh(format!("lvs -H --noheadings -o lv_name {GROUP} 2>/dev/null | grep -c '^ *-' || true")).await?;
    ensure!(history.trim() == "0", "removed volumes stay in the metadata: {history}");

    filters(&mut node).await.context("filters")?;
    let figures = devices_file(&mut node).await.context("the devices file")?;
    configure(&mut node, "devices { use_devicesfile=0 }").await?;
    retry(|| node.csi.delete(&raid.id)).await?;
    Ok(figures)
}

/// Writes the host's settings, and restarts quarry.
async fn configure(node: &mut Node, text: &str) -> Result<()> {
    node.stop().await?;
    node.vm.write(LOCAL, format!("{text}\n").as_bytes(), 0o644).await?;
    node.serve().await
}

/// A volume's whole life.
async fn life(node: &Node, name: &str) -> Result<()> {
    let ask = Ask::mount(name, "ext4");
    let made = retry(|| node.csi.create(&ask)).await?;
    open(node, &made).await?;
    close(node, &made).await?;
    retry(|| node.csi.delete(&made.id)).await?;
    let left = node.vm.sh(format!("lvs --noheadings -o lv_name {GROUP} 2>/dev/null | grep -c {name} || true")).await?;
    ensure!(left.trim() == "0", "{name} is still there");
    Ok(())
}

/// The host's filters are honoured, and named where they hide a disk.
async fn filters(node: &mut Node) -> Result<()> {
    // For `quarry doctor`, from the next start on.
    node.with_arguments("--view /run/quarry/view.sock");
    let (first, second) = (device("d1"), device("d2"));
    let paths = node.vm.sh(format!("readlink -f {first} {second}")).await?;
    let paths: Vec<&str> = paths.lines().collect();
    let [first, second] = paths[..] else { anyhow::bail!("the disks are {paths:?}") };
    for key in ["filter", "global_filter"] {
        configure(node, &format!(r#"devices {{ {key}=["a|^{first}$|","a|^{second}$|","r|.*|"] }}"#)).await?;
        life(node, "admitted").await.with_context(|| format!("devices/{key} admits the disks"))?;
        configure(node, &format!(r#"devices {{ {key}=["r|^{second}$|"] }}"#)).await?;
        let created = node.csi.create(&Ask::mount("hidden", "ext4")).await;
        refused(&format!("create with devices/{key}"), created, Code::ResourceExhausted, "devices/filter")?;
        // Half of the mirrored volume is on it, and intact.
        gives_nothing_up(node, second).await.with_context(|| format!("devices/{key}"))?;
    }
    // lvm reads no empty file.
    configure(node, "devices { use_devicesfile=0 }").await?;
    while_running(node, second).await.context("a filter that is set while Quarry runs")?;
    configure(node, &format!(r#"devices {{ filter=["r|^{first}$|","r|^{second}$|"] }}"#)).await?;
    refused("create", node.csi.create(&Ask::mount("hidden", "ext4")).await, Code::Unavailable, "devices/filter")
}

/// A disk that is hidden later is not written off by the next change of a volume on another one.
async fn while_running(node: &Node, hidden: &str) -> Result<()> {
    let ask = Ask::mount("staged-later", "ext4");
    node.vm.sh(format!("pvchange -qq -xn {hidden}")).await?;
    let made = retry(|| node.csi.create(&ask)).await?;
    node.vm.sh(format!("pvchange -qq -xy {hidden}")).await?;
    node.kubelet_folders(&made).await?;
    for key in ["filter", "global_filter"] {
        node.vm.write(LOCAL, format!("devices {{ {key}=[\"r|^{hidden}$|\"] }}\n").as_bytes(), 0o644).await?;
        refused(
            &format!("stage with devices/{key}"),
            node.csi.stage(&made).await,
            Code::Unavailable,
            "physical volumes",
        )?;
        node.vm.sh(format!("rm {LOCAL}")).await?;
        let missing = node.vm.sh(format!("vgs --noheadings -o vg_missing_pv_count {GROUP} 2>&1")).await?;
        ensure!(missing.trim() == "0", "lvm has written a disk off: {missing}");
    }
    open(node, &made).await?;
    close(node, &made).await?;
    Ok(retry(|| node.csi.delete(&made.id)).await?)
}

/// `quarry doctor` prints no command that would give up what is on a hidden disk.
async fn gives_nothing_up(node: &Node, hidden: &str) -> Result<()> {
    let advice = advice(node, "main").await?;
    ensure!(advice.contains(&format!("{hidden} is in this host")) && !advice.contains('`'), "doctor advises: {advice}");
    // Nor do the findings about the pool and its volumes.
    let printed = node.vm.sh("quarry doctor --socket /run/quarry/view.sock -o json || true").await?;
    for command in ["lvremove", "vgreduce", "lvconvert", "restoremissing"] {
        ensure!(!printed.contains(command), "doctor names {command}: {printed}");
    }
    Ok(())
}

/// The devices file is honoured, named where it hides a disk, and never written.
async fn devices_file(node: &mut Node) -> Result<String> {
    const FILE: &str = "/etc/lvm/devices/system.devices";
    let listing = |serials: &[&str]| {
        let add: Vec<String> = serials
            .iter()
            .map(|serial| format!("lvm lvmdevices -y --config devices/use_devicesfile=1 --adddev {}", device(serial)))
            .collect();
        format!("rm -f {FILE} && {}", add.join(" && "))
    };
    let enabled = "devices { use_devicesfile=1 }";
    configure(node, enabled).await?;
    node.vm.sh(listing(&["d1", "d2"])).await?;
    // As written by a host with a newer lvm, whose name is not the pod's.
    node.vm.sh(format!("sed -i '1a HOSTNAME=another-name' {FILE}")).await?;
    configure(node, enabled).await?;
    let state = format!("sha256sum {FILE}; stat -c %y {FILE}; ls /etc/lvm/devices");
    let before = node.vm.sh(&state).await?;
    const PAIRS: usize = 10;
    for number in 0..PAIRS {
        let ask = Ask::block(&format!("listed-{number}")).size(4 * MIB);
        let made = retry(|| node.csi.create(&ask)).await?;
        retry(|| node.csi.delete(&made.id)).await?;
    }
    ensure!(node.vm.sh(&state).await? == before, "the devices file was written");

    configure(node, "devices { use_devicesfile=0 }").await?;
    node.vm.sh(listing(&["d1"])).await?;
    configure(node, enabled).await?;
    let half = node.csi.create(&Ask::mount("half", "ext4")).await;
    refused("create while one disk is not listed", half, Code::ResourceExhausted, "devices file")?;
    node.vm.sh(format!("sed -i '/^IDTYPE/d' {FILE}")).await?;
    configure(node, enabled).await?;
    let none = node.csi.create(&Ask::mount("none", "ext4")).await;
    refused("create while no disk is listed", none, Code::Unavailable, "devices file")?;
    node.vm.sh(format!("rm {FILE}")).await?;
    Ok(format!("{PAIRS} creates and deletes left the devices file as it was"))
}

async fn tricks() -> Passed {
    let mut node = Node::start("tenant-tricks", &[DISK]).await?;
    let other = node.csi.create(&Ask::mount("other", "ext4")).await?;
    let room = node.csi.capacity(&Default::default()).await?;
    let tenants = tenants(&node).await?;
    // A host that looks for physical volumes on logical volumes makes it easier for a tenant.
    node.vm.write(LOCAL, b"devices { scan_lvs=1 }\n", 0o644).await?;
    let taken: i64 = tenants.iter().map(|made| made.size).sum();
    for restarted in [false, true] {
        if restarted {
            node.stop().await?;
            node.serve().await?;
        }
        let now = node.csi.capacity(&Default::default()).await?;
        ensure!(now.0 == room.0 - taken, "of {room:?}, {taken} bytes less are {now:?}");
        life(&node, "victim").await.with_context(|| format!("another tenant's volume (restarted: {restarted})"))?;
        open(&node, &other).await?;
        close(&node, &other).await?;
    }
    node.vm.sh(format!("rm {LOCAL}")).await?;
    mounted_inside(&node, &tenants[0]).await.context("a tenant's logical volume that is mounted")?;
    // As kubelet does when a pod ends.
    node.vm.sh("losetup -D; udevadm settle").await?;
    for made in &tenants {
        retry(|| node.csi.delete(&made.id)).await.with_context(|| format!("deleting {}", made.id))?;
    }
    killed_while_releasing(&mut node).await.context("killed while a tenant's logical volume is deactivated")?;
    Ok(format!("{} raw volumes that look like something else", tenants.len()))
}

/// Raw volumes on which tenants have done their worst, each with kubelet's loop device on it.
async fn tenants(node: &Node) -> Result<Vec<Made>> {
    let mut all = Vec::new();
    for (name, script) in [
        // A volume group of any name, which the host's udev activates.
        (
            "nested",
            "pvcreate -qy $loop && vgcreate -qy tenantvg $loop && lvcreate -qy -l 5 -n inner tenantvg && mkfs.ext4 -q /dev/tenantvg/inner",
        ),
        // A volume group with the pool's own name, created where there is no other.
        (
            "named",
            "pvcreate -qy --config \"$only\" $loop && vgcreate -qy --config \"$only\" vg0 $loop && \
             lvcreate -qy -an -Zn -Wn -l 3 -n inner --config \"$only\" vg0",
        ),
        // The very label and metadata of the pool's disk: the same name, the same UUIDs.
        ("copied", "dd if=$disk of=$loop bs=1M count=1 conv=fsync status=none"),
        (
            "array",
            "mdadm --create /dev/md77 --run --level=1 --raid-devices=2 --metadata=1.2 $loop missing; mdadm --stop /dev/md77",
        ),
        ("swap", "mkswap $loop"),
    ] {
        let made = node.csi.create(&Ask::block(name)).await?;
        let script = format!(
            "disk=$(readlink -f {disk}); loop=$(losetup -f --show /dev/{GROUP}/{name}); mkdir -p /run/elsewhere; \
             only=\"devices {{ dir=\\\"/run/elsewhere\\\" filter=[\\\"a|^$loop\\$|\\\",\\\"r|.*|\\\"] scan=[\\\"/dev\\\"] hints=\\\"none\\\" }}\"; \
             {{ {script}; }} >/dev/null 2>&1 || true; udevadm settle; sync; losetup -d $loop; \
             losetup -f --show /dev/{GROUP}/{name}; udevadm settle",
            disk = device("d1"),
        );
        node.vm.sh(script).await.with_context(|| format!("the tenant of {name}"))?;
        all.push(made);
    }
    // kubelet knows all of them; udev has read them.
    tokio::time::sleep(Duration::from_secs(12)).await;
    Ok(all)
}

/// A nested volume in use is kept, and so is the volume below it.
async fn mounted_inside(node: &Node, nested: &Made) -> Result<()> {
    let script = "test -e /dev/tenantvg/inner || vgchange -qay tenantvg; mkdir -p /mnt/inner && mount /dev/tenantvg/inner /mnt/inner && echo here >/mnt/inner/file";
    node.vm.sh(script).await?;
    refused("delete below a mount", node.csi.delete(&nested.id).await, Code::FailedPrecondition, "in use")?;
    let file = node.vm.sh("cat /mnt/inner/file && umount /mnt/inner").await?;
    ensure!(file.trim() == "here", "{file:?}");
    Ok(())
}

/// After a kill before or after the deactivation, the next call deletes the volume.
async fn killed_while_releasing(node: &mut Node) -> Result<()> {
    let made = nested(node).await?;
    node.vm.sh(format!("rm -f {FAULTS}/log")).await?;
    retry(|| node.csi.delete(&made.id)).await?;
    let points = node.vm.sh(format!("cat {FAULTS}/log")).await?;
    let first = points.lines().position(|point| point == "exec:dmsetup:before").context("dmsetup was not run")?;
    for number in [first + 1, first + 2] {
        let made = nested(node).await?;
        node.vm.sh(format!("echo {number} > {FAULTS}/kill-at")).await?;
        // Its answer may have got out before.
        let _ = node.csi.delete(&made.id).await;
        node.vm.sh(format!("rm {FAULTS}/kill-at")).await?;
        node.wait_for_end().await?;
        node.serve().await?;
        retry(|| node.csi.delete(&made.id)).await.with_context(|| format!("after a kill at point {number}"))?;
        let left = node.vm.sh(format!("ls -d /dev/{GROUP}/again 2>/dev/null || true")).await?;
        ensure!(left.trim().is_empty(), "{left} is still there");
    }
    Ok(())
}

/// A raw volume with a tenant's volume group in it, of which a logical volume is active on the host.
async fn nested(node: &Node) -> Result<Made> {
    let made = node.csi.create(&Ask::block("again")).await?;
    node.vm
        .sh(format!(
            "loop=$(losetup -f --show /dev/{GROUP}/again) && pvcreate -qy $loop && vgcreate -qy tenantvg $loop && \
             lvcreate -qy -Zn -Wn -l 5 -n inner tenantvg && losetup -d $loop && test -e /dev/tenantvg/inner"
        ))
        .await?;
    Ok(made)
}

//! A full pool: what GetCapacity reports fits to the last extent, and one extent more does not.

use anyhow::{Context as _, Result, ensure};
use tonic::Code;

use crate::csi::{Ask, MIB, Made};
use crate::node::{GROUP, Node, device};
use crate::random::Random;
use crate::scenario::{Context, Passed};

const EXTENT: i64 = 4 * MIB;
/// The disks of the pool: none of the size of another, and none a whole number of extents.
const DISKS: [u64; 4] = [(201 << 20) + 4096, 150 << 20, (97 << 20) + 12288, 60 << 20];
/// Metadata areas small enough to fill; lvm makes them a little larger.
const TINY: u64 = 32 << 10;

pub async fn run(context: Context) -> Passed {
    let mut random = context.random();
    let mut node = Node::bare("full-pool", &DISKS).await?;
    node.serve().await?;
    let mut exact = layouts(&node).await.context("on an empty volume group")?;
    context.say("empty: exact");

    node.kill().await?;
    let holes = fragment(&node, &mut random).await?;
    configure(&node, "main", GROUP, ", reserve: 30Mi").await?;
    node.serve().await?;
    exact += layouts(&node).await.with_context(|| format!("with a reserve, fragmented by {holes}"))?;
    context.say("fragmented, with a reserve: exact");

    node.kill().await?;
    configure(&node, "main", GROUP, "").await?;
    node.serve().await?;
    exact += layouts(&node).await.with_context(|| format!("fragmented by {holes}"))?;
    to_the_end(&node).await?;
    Ok(format!("{exact} largest volumes exact to the extent; full: rejected"))
}

/// The metadata area is full before the disks are.
pub async fn metadata_area(context: Context) -> Passed {
    let mut node = Node::bare("full-metadata", &[]).await?;
    let plugged = (1..=2).map(|number| quarry_vm::Disk::new(format!("d{number}"), 1 << 30));
    node.vm.add_disks(plugged.collect()).await?;
    let disks = [1, 2].map(named).join(" ");
    node.vm.sh(format!("vgcreate -qq --metadatasize {TINY}b --dataalignment 64k vgtiny {disks}")).await?;
    configure(&node, "tiny", "vgtiny", "").await?;
    node.serve().await?;
    metadata(&context, &node).await
}

fn named(number: usize) -> String {
    device(&format!("d{number}"))
}

async fn configure(node: &Node, pool: &str, group: &str, more: &str) -> Result<()> {
    node.configure(&format!("pools:\n  - name: {pool}\n    lvm: {{volumeGroup: {group}{more}}}\n")).await
}

fn ask(name: &str, size: i64, layout: &[(&str, &str)]) -> Ask {
    // Below the least size of a filesystem only a raw device can be asked for.
    let ask = if size < 16 * MIB { Ask::block(name) } else { Ask::mount(name, "ext4") };
    let ask = ask.size(size).parameter("pool", "main");
    layout.iter().fold(ask, |ask, (key, value)| ask.parameter(key, value))
}

/// For every layout: the largest volume can be created, and one extent (one row of stripes) more cannot.
/// Returns how many there were.
async fn layouts(node: &Node) -> Result<usize> {
    let layouts: [(&[(&str, &str)], i64); 5] = [
        (&[], EXTENT),
        (&[("layout", "striped"), ("stripes", "2")], 2 * EXTENT),
        (&[("layout", "striped"), ("stripes", "3")], 3 * EXTENT),
        (&[("layout", "raid1")], EXTENT),
        (&[("layout", "raid1"), ("mirrors", "2")], EXTENT),
    ];
    for (layout, unit) in layouts {
        let what = || format!("layout {layout:?}");
        let parameters = ask("x", 0, layout).parameters;
        let (available, largest) = node.csi.capacity(&parameters).await?;
        ensure!(largest > 0 && available >= largest, "{}: {largest} of {available} bytes", what());
        too_large(node, &ask("largest", largest + unit, layout), largest).await.with_context(what)?;
        too_large(node, &ask("largest", largest + 1, layout), largest).await.with_context(what)?;
        let made = node
            .csi
            .create(&ask("largest", largest, layout))
            .await
            .with_context(|| format!("{}: {largest} bytes are said to fit, and do not", what()))?;
        ensure!(made.size == largest, "{}: {} bytes instead of {largest}", what(), made.size);
        let (_, after) = node.csi.capacity(&parameters).await?;
        ensure!(after < largest, "{}: {after} bytes are reported free after {largest} were allocated", what());
        if after == 0 {
            too_large(node, &ask("more", unit, layout), 0).await.with_context(what)?;
        } else {
            // The rest is exact, too.
            let rest =
                node.csi.create(&ask("rest", after, layout)).await.with_context(|| format!("{}: rest", what()))?;
            node.csi.delete(&rest.id).await?;
        }
        node.csi.delete(&made.id).await?;
        let (_, back) = node.csi.capacity(&parameters).await?;
        ensure!(back == largest, "{}: {back} bytes after the delete, {largest} before", what());
    }
    // Wider than there are disks: nothing, and a reason.
    let wide: &[(&str, &str)] = &[("layout", "striped"), ("stripes", "5")];
    ensure!(node.csi.capacity(&ask("x", 0, wide).parameters).await? == (0, 0), "a layout wider than the pool has room");
    too_large(node, &ask("wide", EXTENT, wide), 0).await?;
    Ok(layouts.len())
}

/// Fails unless the volume is rejected for lack of space, with the requested and the free size.
async fn too_large(node: &Node, ask: &Ask, largest: i64) -> Result<()> {
    let error = match node.csi.create(ask).await {
        Err(status) => status,
        Ok(made) => anyhow::bail!("{} bytes were allocated, but only {largest} should fit", made.size),
    };
    ensure!(error.code() == Code::ResourceExhausted, "{error:?}");
    for part in ["pool main".to_owned(), largest.to_string()] {
        ensure!(error.message().contains(&part), "the message does not say {part:?}: {}", error.message());
    }
    Ok(())
}

/// Fragments the free space: foreign volumes, at random places of the disks.
async fn fragment(node: &Node, random: &mut Random) -> Result<String> {
    let mut places = Vec::new();
    let mut script = String::new();
    for (index, size) in DISKS.iter().enumerate() {
        // The first extents; the header takes a part of the disk.
        let extents = size / (4 << 20) - 1;
        for start in random.sample(3, usize::try_from(extents)?) {
            let name = format!("hole-{index}-{start}");
            script += &format!("lvcreate -y -an -Zn -Wn -l 1 -n {name} {GROUP} {}:{start}\n", named(index + 1));
            places.push(format!("{index}:{start}"));
        }
    }
    lvm_shell(node, &script).await?;
    let count = node.contents().await?.lines().count();
    ensure!(count == places.len(), "{count} of {} volumes were made", places.len());
    Ok(places.join(","))
}

/// Runs many commands in one lvm process: a process for each takes minutes.
async fn lvm_shell(node: &Node, script: &str) -> Result<()> {
    node.vm.write("/run/lvm-commands", script.as_bytes(), 0o644).await?;
    let shell = quarry_vm::Command::sh("lvm < /run/lvm-commands 2>&1").timeout(std::time::Duration::from_secs(600));
    let said = node.vm.check(shell).await?;
    // The shell itself succeeds, whatever its commands return.
    let made = said.lines().filter(|line| line.ends_with(" created.")).count();
    ensure!(made == script.lines().count(), "{made} of {} volumes were made:\n{said}", script.lines().count());
    Ok(())
}

/// Fills the pool with volumes until GetCapacity returns 0: then every further one is rejected, and the first
/// deletion frees space again.
async fn to_the_end(node: &Node) -> Result<()> {
    let parameters = ask("x", 0, &[]).parameters;
    let (_, largest) = node.csi.capacity(&parameters).await?;
    let mut made = Vec::new();
    for (index, size) in [largest / 2 / EXTENT * EXTENT, 3 * EXTENT, 0].into_iter().enumerate() {
        let left = node.csi.capacity(&parameters).await?.1;
        // The last one takes all that is left.
        let size = if size == 0 { left } else { size };
        made.push(node.csi.create(&ask(&format!("fill-{index}"), size, &[])).await?);
    }
    let capacity = node.csi.capacity(&parameters).await?;
    ensure!(capacity == (0, 0), "a full pool has room: {capacity:?}");
    too_large(node, &ask("more", EXTENT, &[]), 0).await?;
    // The same name again is not a new volume, however full the pool is.
    let again = node.csi.create(&made[0].ask).await?;
    ensure!(again.id == made[0].id, "another volume: {} and {}", again.id, made[0].id);
    node.csi.delete(&made[1].id).await?;
    ensure!(node.csi.capacity(&parameters).await?.1 == made[1].size, "the deleted volume's room is not back");
    for made in [&made[0], &made[2]] {
        node.csi.delete(&made.id).await?;
    }
    Ok(())
}

/// Fills a small metadata area: below a tenth of free space there is no capacity and no new volume, but
/// deletion works. Reports how many volumes a default area holds.
async fn metadata(context: &Context, node: &Node) -> Result<String> {
    let on_tiny = |name: &str, layout: &[(&str, &str)]| {
        let ask = Ask::block(name).size(EXTENT).parameter("pool", "tiny");
        layout.iter().fold(ask, |ask, (key, value)| ask.parameter(key, value))
    };
    let raid1: &[(&str, &str)] = &[("layout", "raid1")];
    let pvc = |number: usize| format!("pvc-8c5a4bd6-7d0e-4a55-9c3c-{number:012}");
    let linear = node.csi.create(&on_tiny(&pvc(1), &[])).await?;
    let (size, empty) = area(node).await?;
    // lvm reports the free space in whole sectors: over several volumes this is exact enough.
    let mut raids = Vec::new();
    for number in 0..4 {
        raids.push(node.csi.create(&on_tiny(&pvc(100 + number), raid1)).await?);
    }
    let of_raid = (empty - area(node).await?.1) / 4;
    for raid in raids {
        node.csi.delete(&raid.id).await?;
    }

    // Most of it is filled by hand, with a tag as long as Quarry's; the rest by quarry.
    let tag =
        node.vm.sh(format!("lvs --noheadings -o lv_tags vgtiny/{}", pvc(1))).await?.trim().replace("quarry", "filler");
    let limit = size / 2 / 10;
    let mut filled = 0;
    while area(node).await?.1 > limit + 3072 {
        let script: String = (0..4)
            .map(|number| {
                format!("lvcreate -y -an -Zn -Wn -l 1 -n {} --addtag {tag} vgtiny\n", pvc(1000 + filled + number))
            })
            .collect();
        lvm_shell(node, &script).await?;
        filled += 4;
        ensure!(filled < 400, "the metadata area does not fill");
    }
    let one = (empty - area(node).await?.1) / i64::try_from(filled.max(1))?;
    ensure!(one > 0 && of_raid > one, "a linear volume takes {one} bytes of metadata, a raid1 {of_raid}");
    context.say(format_args!("{filled} volumes by hand, {one} bytes each"));
    // Inactive volumes cause no uevent; the header is compared before an older answer is used.
    tokio::time::sleep(std::time::Duration::from_secs(11)).await;
    let mut made: Vec<Made> = vec![linear];
    let refused = loop {
        let (available, largest) = node.csi.capacity(&on_tiny("x", &[]).parameters).await?;
        let (_, free) = area(node).await?;
        match node.csi.create(&on_tiny(&pvc(3 + made.len()), &[])).await {
            Ok(volume) => {
                ensure!(
                    largest > 0,
                    "a volume was created although no capacity was reported, with {free} bytes of metadata left"
                );
                made.push(volume);
            }
            Err(status) => {
                ensure!((available, largest) == (0, 0), "{largest} bytes were reported to fit, then: {status:?}");
                ensure!(free < limit, "rejected with {free} of {} bytes left: {status:?}", size / 2);
                break status;
            }
        }
        ensure!(made.len() < 40, "{free} bytes of metadata left, and still no refusal");
    };
    ensure!(refused.code() == Code::ResourceExhausted, "{refused:?}");
    ensure!(refused.message().contains("metadata area"), "{}", refused.message());
    ensure!(made.len() > 2, "the area was full before quarry created a volume: the test fills too much");
    // Calls for existing volumes keep working, and deleting a few frees space.
    let (_, before) = area(node).await?;
    let count = made.len();
    for volume in &made[..3] {
        node.csi.delete(&volume.id).await.context("deleting with a full metadata area")?;
    }
    let (_, after) = area(node).await?;
    ensure!(after > before, "deletes gave back no metadata: {before} and {after}");
    node.csi.create(&on_tiny("room-again", &[])).await.context("after deletes")?;
    context.say(format_args!("{count} of quarry's volumes in the small area"));
    // What a default area takes until a tenth is left: 1 MiB less its header, of which one copy is half.
    let room = (1_044_480 / 2) * 9 / 10;
    Ok(format!(
        "{one} bytes of metadata per linear volume, {of_raid} per raid1 ({} and {} in a default area of 1 MiB)",
        room / one,
        room / of_raid
    ))
}

/// The metadata area of the small volume group: its size, and the bytes left for one copy.
async fn area(node: &Node) -> Result<(i64, i64)> {
    let line = node.vm.sh("vgs --noheadings --units b --nosuffix -o vg_mda_size,vg_mda_free vgtiny").await?;
    let numbers: Vec<i64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    match numbers.as_slice() {
        &[size, free] => Ok((size, free)),
        _ => anyhow::bail!("vgs says {line:?}"),
    }
}

//! No metadata of a volume group makes the reader panic.
//!
//! The checksums of a disk are not tried: they would reject nearly every input. An input is either a whole text, or an
//! edit of a real one: where, how many bytes to replace, and by what.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quarry_lvm::metadata::text::{Node, Section, Value, parse};
use quarry_lvm::metadata::{Area, Devices, Disk, volume_group};

const REAL: &[u8] = b"vg0 { id = \"xC5xPT-E5My-f9Ad-ISo3-tz3U-4Uud-c7lpxZ\" seqno = 7 format = \"lvm2\"
status = [\"RESIZEABLE\", \"READ\", \"WRITE\"] flags = [] tags = [\"a\"] extent_size = 8192 max_lv = 0 max_pv = 0
physical_volumes { pv0 { id = \"T2EfI9-eD7e-X4RF-fEH8-J3VF-atLt-ziwXc9\" device = \"/dev/vdb\"
status = [\"ALLOCATABLE\"] flags = [] dev_size = 2252800 pe_start = 2048 pe_count = 274 } }
logical_volumes {
a { id = \"IfZwac-edFK-x7Se-TlLH-MdxV-WrEK-Gqrsws\" status = [\"READ\", \"VISIBLE\"] flags = [] segment_count = 2
segment1 { start_extent = 0 extent_count = 5 type = \"striped\" stripe_count = 1 stripes = [\"pv0\", 0] }
segment2 { start_extent = 5 extent_count = 4 type = \"striped\" stripe_count = 2 stripe_size = 128
stripes = [\"pv0\", 6, \"pv0\", 9] } }
s { id = \"xEMJ5M-eygU-jwTm-0MwH-jG15-Mxot-cvoBlz\" status = [\"READ\"] segment_count = 1
segment1 { start_extent = 0 extent_count = 3 type = \"striped\" stripe_count = 1 stripes = [\"pv0\", 20] } }
m { id = \"xtOuK5-j3xG-Q50I-utXB-TVkA-gbPv-z1DWlG\" status = [\"READ\", \"VISIBLE\", \"NOTSYNCED\"] segment_count = 1
segment1 { start_extent = 0 extent_count = 4 type = \"raid1\" device_count = 1 region_size = 4096
raids = [\"m_rmeta_0\", \"m_rimage_0\"] } }
m_rimage_0 { id = \"YFCh4f-yjjd-Plfr-z4Ap-ZFO2-yw3X-gc1f9f\" status = [\"READ\"] segment_count = 1
segment1 { start_extent = 0 extent_count = 4 type = \"striped\" stripe_count = 1 stripes = [\"pv0\", 30] } }
m_rmeta_0 { id = \"g9mWZR-XFYO-eeaX-e0Jk-to0d-ZJDO-KEb8iU\" status = [\"READ\"] segment_count = 1
segment1 { start_extent = 0 extent_count = 1 type = \"striped\" stripe_count = 1 stripes = [\"pv0\", 40] } }
pool { id = \"U9n38O-jscH-kPCA-QqvF-vhs6-L7DI-rQb3N6\" status = [\"READ\", \"VISIBLE\"] segment_count = 1
segment1 { start_extent = 0 extent_count = 20 type = \"thin-pool\" metadata = \"pool_tmeta\" pool = \"pool_tdata\"
transaction_id = 5 chunk_size = 128 discards = \"passdown\" zero_new_blocks = 1 } }
t { id = \"YPMKLQ-Q4Ud-M3Rr-zA11-6pJ1-0WJ7-a36GBN\" status = [\"READ\", \"VISIBLE\"] segment_count = 1
segment1 { start_extent = 0 extent_count = 25 type = \"thin\" thin_pool = \"pool\" transaction_id = 0 device_id = 1
external_origin = \"a\" } }
pool_tdata { id = \"m3hdqQ-8wlh-7j3k-xLow-0em3-Jbb1-3Iwaco\" status = [\"READ\"] segment_count = 1
segment1 { start_extent = 0 extent_count = 20 type = \"striped\" stripe_count = 1 stripes = [\"pv0\", 50] } }
pool_tmeta { id = \"QHGKHq-beO3-tIws-7lSZ-pD5r-MDic-V0tZhH\" status = [\"READ\"] segment_count = 1
segment1 { start_extent = 0 extent_count = 1 type = \"striped\" stripe_count = 1 stripes = [\"pv0\", 80] } }
snapshot0 { id = \"3e2Kg9-L0N5-kAhu-eGr1-x8D3-Ec3m-efksGa\" status = [\"READ\", \"VISIBLE\"] segment_count = 1
segment1 { start_extent = 0 extent_count = 9 type = \"snapshot\" chunk_size = 128 origin = \"a\" cow_store = \"s\" } }
} }
contents = \"Text Format Volume Group\" version = 1";

/// The text of an input.
fn text(input: &[u8]) -> Vec<u8> {
    match input {
        [0, low, high, length, new @ ..] => {
            let mut text = REAL.to_vec();
            let from = usize::from(u16::from_le_bytes([*low, *high])).min(text.len());
            let to = from.saturating_add(usize::from(*length)).min(text.len());
            text.splice(from..to, new.iter().copied());
            text
        }
        _ => input.to_vec(),
    }
}

/// A disk for each physical volume that the text names.
fn disks(tree: &Section<'_>, text: &[u8]) -> Vec<Disk> {
    fn section<'a>(node: &Node<'a>) -> Option<Section<'a>> {
        if let Node::Section(section) = node { Some(section.clone()) } else { None }
    }
    let groups = tree.iter().filter_map(|(_, node)| section(node));
    let volumes = groups.filter_map(|group| group.get("physical_volumes").and_then(section));
    let volumes: Vec<Section<'_>> =
        volumes.flat_map(|all| all.iter().filter_map(|(_, pv)| section(pv)).collect::<Vec<_>>()).collect();
    let disk = |(index, pv): (usize, &Section<'_>)| {
        let Some(Node::Value(Value::Text(id))) = pv.get("id") else { return None };
        let area = Area { size: 1 << 20, text: Some(text.to_vec()), precommitted: false };
        let device = format!("/dev/vd{index}").into();
        Some(Disk { device, uuid: id.parse().ok()?, areas: vec![area], fingerprint: [0; 32] })
    };
    volumes.iter().enumerate().filter_map(disk).collect()
}

fuzz_target!(|input: &[u8]| {
    let text = text(input);
    let Ok(tree) = parse(&text) else { return };
    assert_eq!(parse(tree.to_string().as_bytes()).as_ref(), Ok(&tree));
    if let Ok(group) = volume_group(&disks(&tree, &text), &Devices::default()) {
        let used = |pv: &quarry_lvm::PhysicalVolume| pv.used.iter().map(|used| used.extents.0).sum::<u64>();
        for pv in &group.physical_volumes {
            assert_eq!(used(pv) + pv.free_extents.0, pv.extent_count.0);
        }
    }
});

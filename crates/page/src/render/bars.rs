//! Bars to scale, as inline SVG. The kinds of space have patterns, so that they differ without colour, and each bar has its
//! figures as text beside it or in a table.

use maud::{Markup, html};
use quarry_volume::{Layout, PoolState, Snapshot, Volume};

/// The length of the longest bar.
const LONGEST: u64 = 640;
/// How much longer a bar may be because small shares stay visible.
const ROUNDING: u64 = 5;
/// The length of the bar in a table.
const SHORT: u64 = 120;

/// A kind of space in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Volumes,
    Snapshots,
    Other,
    Reserve,
    Free,
}

impl Kind {
    /// Its class in the stylesheet.
    fn class(self) -> &'static str {
        match self {
            Self::Volumes => "volumes",
            Self::Snapshots => "snapshots",
            Self::Other => "other",
            Self::Reserve => "reserve",
            Self::Free => "free",
        }
    }
}

/// A part of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) kind: Kind,
    /// In bytes.
    pub(super) size: u64,
}

/// How the space of a pool is used, in the order of the bar; together at least the size of the pool. `volumes` and
/// `snapshots` are those in it.
pub(super) fn shares<'a>(
    pool: &PoolState,
    volumes: impl Iterator<Item = &'a Volume>,
    snapshots: impl Iterator<Item = &'a Snapshot>,
) -> Vec<Share> {
    let share = |kind, size| Share { kind, size };
    if let Some(thin) = pool.thin {
        // Its volumes and snapshots share their blocks: only their sum is known.
        let used = u64::try_from(u128::from(pool.size) * u128::from(thin.data_percent) / 100).unwrap_or(u64::MAX);
        let used = used.min(pool.size);
        return vec![share(Kind::Volumes, used), share(Kind::Free, pool.size - used)];
    }
    let sum = |sizes: &mut dyn Iterator<Item = u64>| sizes.fold(0, u64::saturating_add);
    let volumes = sum(&mut volumes.map(on_disk));
    let snapshots = sum(&mut snapshots.map(|snapshot| snapshot.allocated));
    let unallocated = sum(&mut pool.space.free.iter().map(|free| pool.space.extent.bytes(*free)));
    let free = pool.space.available();
    let reserve = unallocated.saturating_sub(free);
    let known = [volumes, snapshots, reserve, free].into_iter().fold(0, u64::saturating_add);
    vec![
        share(Kind::Volumes, volumes),
        share(Kind::Snapshots, snapshots),
        share(Kind::Other, pool.size.saturating_sub(known)),
        share(Kind::Reserve, reserve),
        share(Kind::Free, free),
    ]
}

/// What a volume takes of its pool, in bytes, without the metadata of its mirrors.
fn on_disk(volume: &Volume) -> u64 {
    let copies = match volume.layout {
        Some(Layout::Raid1 { .. }) => volume.layout.map_or(1, |layout| u64::from(layout.width())),
        _ => 1,
    };
    volume.size.saturating_mul(copies)
}

/// The part of `length` that `size` of `whole` is. What is not nothing stays visible.
fn scaled(size: u64, whole: u64, length: u64) -> u64 {
    let exact = u128::from(size) * u128::from(length) / u128::from(whole.max(1));
    let scaled = u64::try_from(exact).unwrap_or(length).min(length);
    if size > 0 { scaled.max(1) } else { 0 }
}

/// The bar of a pool whose shares are drawn to the scale on which `largest` bytes are [`LONGEST`]. `words` says the same.
pub(super) fn pool(shares: &[Share], largest: u64, words: &str) -> Markup {
    let mut x = 0;
    let mut parts = Vec::new();
    for share in shares.iter().filter(|share| share.size > 0) {
        let width = scaled(share.size, largest, LONGEST);
        parts.push((x, width, share.kind.class()));
        x += width;
    }
    // All bars have the same length on the screen, so that a narrow one shrinks them alike.
    let all = LONGEST + ROUNDING;
    html! {
        svg.bar role="img" aria-label=(words) width=(all) height="28" viewBox={ "0 0 " (all) " 28" } {
            @for (x, width, class) in parts {
                rect.back x=(x) y="0" width=(width) height="28" {}
                rect class=(class) x=(x) y="0" width=(width) height="28" {}
            }
        }
    }
}

/// A small bar, filled up to `percent`. The text beside it has the figure, so screen readers skip it.
pub(super) fn fill(percent: u64) -> Markup {
    html! {
        svg.fill aria-hidden="true" focusable="false" width=(SHORT) height="12" viewBox={ "0 0 " (SHORT) " 12" } {
            rect.back x="0" y="0" width=(SHORT) height="12" {}
            rect.volumes x="0" y="0" width=(scaled(percent.min(100), 100, SHORT)) height="12" {}
        }
    }
}

/// The sample of a kind in a legend; its name is beside it.
pub(super) fn sample(kind: Kind) -> Markup {
    html! {
        svg.sample aria-hidden="true" focusable="false" width="28" height="16" viewBox="0 0 28 16" {
            rect.back x="0" y="0" width="28" height="16" {}
            rect class=(kind.class()) x="0" y="0" width="28" height="16" {}
        }
    }
}

/// The patterns that the bars of a page use, once per page.
pub(super) fn patterns() -> Markup {
    html! {
        svg.patterns aria-hidden="true" focusable="false" width="0" height="0" {
            defs {
                pattern id="stripes" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
                    rect.ink x="0" y="0" width="3" height="6" {}
                }
                pattern id="dots" width="7" height="7" patternUnits="userSpaceOnUse" {
                    circle.ink cx="3" cy="3" r="1.6" {}
                }
                pattern id="grid" width="6" height="6" patternUnits="userSpaceOnUse" {
                    path.line d="M0 0H6M0 0V6" {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use quarry_volume::{ExtentSize, Extents, Space, StorageId, ThinUse, VolumeId};

    use super::*;

    const GIB: u64 = 1 << 30;

    fn volume(gib: u64, layout: Layout) -> Volume {
        let id = VolumeId { storage: StorageId::of("s"), node: "n".into(), volume: "v".into() };
        Volume { size: gib * GIB, layout: Some(layout), ..Volume::new(id) }
    }

    fn sizes(shares: &[Share]) -> Vec<(Kind, u64)> {
        shares.iter().map(|share| (share.kind, share.size / GIB)).collect()
    }

    #[test]
    fn the_shares_of_a_pool_are_its_size() {
        let space = Space {
            extent: ExtentSize(GIB),
            free: vec![Extents(30), Extents(10)],
            reserve: Extents(5),
            ..Space::default()
        };
        let pool = PoolState { size: 100 * GIB, space, ..PoolState::default() };
        let volumes = [volume(10, Layout::Linear), volume(15, Layout::Raid1 { mirrors: 1 })];
        let mut snapshot = Snapshot::new(
            quarry_volume::SnapshotId { storage: StorageId::of("s"), node: "n".into(), snapshot: "s".into() },
            volumes[0].id.clone(),
        );
        snapshot.allocated = 3 * GIB;
        let shares = shares(&pool, volumes.iter(), [snapshot].iter());
        let expected =
            [(Kind::Volumes, 40), (Kind::Snapshots, 3), (Kind::Other, 17), (Kind::Reserve, 5), (Kind::Free, 35)];
        assert_eq!(sizes(&shares), expected);
        let drawn = super::pool(&shares, 100 * GIB, "words").into_string();
        assert!(drawn.contains(r#"class="volumes" x="0" y="0" width="256""#), "{drawn}");
        assert!(drawn.contains(r#"class="free" x="415" y="0" width="224""#), "{drawn}");
        // Half as large, half as long.
        let half = super::pool(&shares, 200 * GIB, "words").into_string();
        assert!(half.contains(r#"class="volumes" x="0" y="0" width="128""#), "{half}");
    }

    #[test]
    fn a_thin_pool_shows_what_is_written() {
        let thin = Some(ThinUse { data_percent: 25, metadata_percent: 1, virtual_size: 900 * GIB });
        let pool = PoolState { size: 100 * GIB, thin, ..PoolState::default() };
        let shares = shares(&pool, [volume(900, Layout::Linear)].iter(), [].iter());
        assert_eq!(sizes(&shares), [(Kind::Volumes, 25), (Kind::Free, 75)]);
    }

    #[test]
    fn no_figure_breaks_a_bar() {
        let pool = PoolState { size: u64::MAX, ..PoolState::default() };
        let volumes = [volume(u64::MAX / GIB, Layout::Raid1 { mirrors: 9 }), volume(u64::MAX / GIB, Layout::Linear)];
        let shares = shares(&pool, volumes.iter(), [].iter());
        let drawn = super::pool(&shares, 0, "").into_string();
        assert!(drawn.contains(r#"class="volumes" x="0" y="0" width="640""#), "{drawn}");
        assert_eq!(scaled(1, u64::MAX, 640), 1);
        assert_eq!(scaled(0, 0, 640), 0);
    }
}

//! A disk in memory that remembers all writes since the last flush, and computes what a power cut could leave
//! of them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::rc::Rc;

use crate::claim::Sectors;

/// The unit that is written completely or not at all.
pub(super) const PIECE: usize = 512;
pub(super) type Piece = [u8; PIECE];
/// How many pieces most disks write at once.
const PAGE: u64 = 4096 / PIECE as u64;

/// The contents of the disk before the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Zeros,
    /// Noise without any signature, different for every seed.
    Noise(u64),
}

/// All pieces that were ever flushed.
#[derive(Clone, Debug)]
pub(super) struct Durable {
    before: Before,
    pieces: BTreeMap<u64, Rc<Piece>>,
}

impl Durable {
    fn piece(&self, number: u64) -> Piece {
        self.pieces.get(&number).map_or_else(|| self.before.piece(number), |piece| **piece)
    }

    fn set(&mut self, number: u64, piece: &Piece) {
        // Pieces with their original contents are not stored, so that copies of a disk are cheap.
        if self.before.piece(number) == *piece {
            self.pieces.remove(&number);
        } else {
            self.pieces.insert(number, Rc::new(*piece));
        }
    }
}

impl Before {
    fn piece(self, number: u64) -> Piece {
        let mut piece = [0; PIECE];
        if let Self::Noise(seed) = self {
            let mut random = Random(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            piece.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.next().to_le_bytes()));
            // Avoids an accidental boot signature.
            piece[510] = 0;
        }
        piece
    }
}

/// A small random number generator (splitmix64), with the same numbers in every run.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The contents of the disk at its last flush, and the pieces written since, in order.
#[derive(Clone, Debug)]
pub(super) struct Window {
    durable: Durable,
    pending: Vec<(u64, Piece)>,
}

#[derive(Debug)]
pub(super) struct Double {
    size: Cell<u64>,
    sector_size: Cell<u32>,
    now: RefCell<Window>,
    /// One window for each flush so far: what a power cut just before the end of that flush could affect.
    windows: RefCell<Vec<Window>>,
    /// The number of writes and flushes until the process is killed.
    budget: Cell<Option<usize>>,
    pub(super) operations: Cell<usize>,
    /// The disk loses what it is given, although its flushes succeed. Reads from the page cache do not show that.
    pub(super) loses: Cell<bool>,
    /// Pieces that cannot be read.
    pub(super) bad: RefCell<BTreeSet<u64>>,
}

impl Double {
    pub(super) fn new(size: u64, sector_size: u32, before: Before) -> Self {
        let durable = Durable { before, pieces: BTreeMap::new() };
        Self::of(size, sector_size, Window { durable, pending: Vec::new() })
    }

    fn of(size: u64, sector_size: u32, now: Window) -> Self {
        Self {
            size: Cell::new(size),
            sector_size: Cell::new(sector_size),
            now: RefCell::new(now),
            windows: RefCell::default(),
            budget: Cell::default(),
            operations: Cell::default(),
            loses: Cell::default(),
            bad: RefCell::default(),
        }
    }

    /// Another disk with the current contents of this one, flushed or not.
    pub(super) fn copy(&self) -> Self {
        Self::of(self.size.get(), self.sector_size.get(), self.now.borrow().clone())
    }

    /// From now on, the disk reports this size and this sector size.
    pub(super) fn attach(&self, size: u64, sector_size: u32) {
        self.size.set(size);
        self.sector_size.set(sector_size);
    }

    /// The process is killed after this many more writes and flushes.
    pub(super) fn kill_after(&self, operations: Option<usize>) {
        self.budget.set(operations);
    }

    /// Writes behind the back of the code under test, and flushes.
    pub(super) fn poke(&self, offset: u64, bytes: &[u8]) {
        let mut now = self.now.borrow_mut();
        for (index, byte) in bytes.iter().enumerate() {
            let at = offset + index as u64;
            let number = at / PIECE as u64;
            let mut piece = now.durable.piece(number);
            piece[at as usize % PIECE] = *byte;
            now.durable.set(number, &piece);
        }
    }

    pub(super) fn peek(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut buffer = vec![0; length];
        self.read_exact_at(&mut buffer, offset).unwrap();
        buffer
    }

    /// Every piece that differs from the original contents.
    pub(super) fn written(&self) -> BTreeMap<u64, Piece> {
        let now = self.now.borrow();
        let numbers = now.durable.pieces.keys().chain(now.pending.iter().map(|(number, _)| number));
        numbers.map(|number| (*number, self.peek(number * PIECE as u64, PIECE).try_into().unwrap())).collect()
    }

    /// Every disk that a power cut could have left at any instant so far: before any of the flushes, or now.
    pub(super) fn cuts(&self) -> Vec<Self> {
        let mut windows = self.windows.borrow().clone();
        windows.push(self.now.borrow().clone());
        windows
            .iter()
            .flat_map(Window::images)
            .map(|durable| {
                let window = Window { durable, pending: Vec::new() };
                Self::of(self.size.get(), self.sector_size.get(), window)
            })
            .collect()
    }

    /// Whether one more write or flush completes. The last one before the kill may have begun.
    fn spend(&self) -> bool {
        self.operations.set(self.operations.get() + 1);
        match self.budget.get() {
            None => true,
            Some(0) => false,
            Some(left) => {
                self.budget.set(Some(left - 1));
                true
            }
        }
    }
}

impl Window {
    /// What a reader sees, flushed or not.
    fn piece(&self, number: u64) -> Piece {
        let pending = self.pending.iter().rev().find(|(written, _)| *written == number);
        pending.map_or_else(|| self.durable.piece(number), |(_, piece)| *piece)
    }

    /// Everything that may be on the disk after a power cut: of each piece, either its flushed contents or
    /// any version written since. If there are few pieces, all combinations; otherwise all combinations of
    /// the pieces that are not just zeros, each with none, all and some of the others, and with those around it: disks
    /// write 4096 bytes at once.
    fn images(&self) -> Vec<Durable> {
        let mut choices: BTreeMap<u64, Vec<Piece>> = BTreeMap::new();
        for (number, piece) in &self.pending {
            let versions = choices.entry(*number).or_insert_with(|| vec![self.durable.piece(*number)]);
            if !versions.contains(piece) {
                versions.push(*piece);
            }
        }
        choices.retain(|_, versions| versions.len() > 1);
        let (written, zeroed): (Vec<_>, Vec<_>) = choices
            .into_iter()
            .partition(|(_, versions)| versions[1..].iter().any(|piece| piece.iter().any(|byte| *byte != 0)));
        // Zeros over a few noisy pieces (an erased header) matter as well.
        let (written, zeroed) = if written.len() + zeroed.len() <= 12 {
            (written.into_iter().chain(zeroed).collect(), Vec::new())
        } else {
            (written, zeroed)
        };
        let combinations: usize = written.iter().map(|(_, versions)| versions.len()).product();
        assert!(combinations <= 1 << 14, "too many for a test: {combinations}");
        let around: BTreeSet<u64> = written.iter().map(|(number, _)| number / PAGE).collect();
        let mut random = Random(combinations as u64);
        let mut images = Vec::new();
        for combination in 0..combinations {
            for others in 0..if zeroed.is_empty() { 1 } else { 4 } {
                let mut image = self.durable.clone();
                let mut rest = combination;
                for (number, versions) in &written {
                    image.set(*number, &versions[rest % versions.len()]);
                    rest /= versions.len();
                }
                for (number, versions) in &zeroed {
                    let version = match others {
                        0 => 0,
                        1 => versions.len() - 1,
                        2 => {
                            if around.contains(&(number / PAGE)) {
                                versions.len() - 1
                            } else {
                                0
                            }
                        }
                        _ => random.next() as usize % versions.len(),
                    };
                    image.set(*number, &versions[version]);
                }
                images.push(image);
            }
        }
        images
    }
}

impl Sectors for Double {
    fn path(&self) -> &Path {
        Path::new("/dev/double")
    }

    fn size(&self) -> u64 {
        self.size.get()
    }

    fn sector_size(&self) -> u32 {
        self.sector_size.get()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        assert!(offset + buffer.len() as u64 <= self.size(), "read beyond the end");
        assert!(offset.is_multiple_of(512) && buffer.len().is_multiple_of(512), "the tests read whole pieces");
        let now = self.now.borrow();
        for (index, part) in buffer.chunks_exact_mut(PIECE).enumerate() {
            let number = offset / PIECE as u64 + index as u64;
            if self.bad.borrow().contains(&number) {
                return Err(io::Error::other("a bad sector"));
            }
            part.copy_from_slice(&now.piece(number));
        }
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        assert!(offset + bytes.len() as u64 <= self.size(), "written beyond the end");
        let sector_size = u64::from(self.sector_size());
        assert!(
            offset.is_multiple_of(sector_size) && (bytes.len() as u64).is_multiple_of(sector_size),
            "part of a sector"
        );
        let whole = self.spend();
        let mut pieces: Vec<(u64, Piece)> = bytes
            .chunks_exact(PIECE)
            .enumerate()
            .map(|(index, piece)| (offset / PIECE as u64 + index as u64, piece.try_into().unwrap()))
            .collect();
        if !whole {
            pieces.truncate(pieces.len() / 2);
        }
        // Rewriting the same contents cannot lose anything, so it is skipped. This keeps the disks small.
        let mut now = self.now.borrow_mut();
        let changed: Vec<_> = pieces.into_iter().filter(|(number, piece)| now.piece(*number) != *piece).collect();
        now.pending.extend(changed);
        if whole { Ok(()) } else { Err(io::Error::other("killed")) }
    }

    fn flush(&self) -> io::Result<()> {
        if !self.spend() {
            return Err(io::Error::other("killed"));
        }
        if self.loses.get() {
            return Ok(());
        }
        let mut now = self.now.borrow_mut();
        self.windows.borrow_mut().push(now.clone());
        let pending = std::mem::take(&mut now.pending);
        pending.iter().for_each(|(number, piece)| now.durable.set(*number, piece));
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        if self.loses.get() {
            self.now.borrow_mut().pending.clear();
        }
        Ok(())
    }
}

//! Reads and writes at the same time.

use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quarry_volume::Gib;

use super::{Edit, Error, Meter, Rate, Source, Target, ZERO_AT_ONCE};
use crate::tasks::Handle;

/// How much is read and written at once.
pub(super) const CHUNK: u64 = 4 << 20;
/// How much is zeroed at once where the source contains zeros: one call is faster than many.
const ZEROS: u64 = 64 << 20;
/// Zeros are looked for in blocks of this size if they are skipped: the smallest that a thin pool allocates.
const SKIPPED: usize = 64 << 10;
/// And of this size if they are written: each hole is a call of its own, so small ones are written with the data.
const WRITTEN: usize = 1 << 20;
/// How many chunks are in memory.
const CHUNKS: usize = 4;
/// The alignment of buffers, in bytes: enough for direct I/O on any disk.
const ALIGNMENT: usize = 4096;
/// How often a copy that waits for its rates looks whether it should stop.
const LOOK: Duration = Duration::from_millis(100);

/// The two ends of a copy, and what happens between them.
pub(super) struct Pipeline {
    pub(super) source: Mutex<Box<dyn Source>>,
    pub(super) target: Mutex<Box<dyn Target>>,
    /// Whether zeros of the source need not be written.
    pub(super) skip_zeros: bool,
    pub(super) edit: Option<Edit>,
    pub(super) rates: Vec<Rate>,
    pub(super) meter: Meter,
    pub(super) handle: Handle,
}

/// A chunk that was read.
struct Chunk {
    offset: u64,
    buffer: Buffer,
}

/// Memory that is aligned for direct I/O.
struct Buffer {
    memory: Vec<u8>,
    used: usize,
}

impl Buffer {
    fn new() -> Self {
        Self { memory: vec![0; CHUNK as usize + ALIGNMENT], used: 0 }
    }

    fn bytes(&mut self) -> &mut [u8] {
        let skip = self.memory.as_ptr().align_offset(ALIGNMENT);
        let used = self.used;
        self.memory.get_mut(skip..).and_then(|rest| rest.get_mut(..used)).unwrap_or_default()
    }
}

impl Pipeline {
    /// Copies these bytes, and returns up to where: less than all if the task should stop. Not flushed.
    pub(super) fn copy(&self, part: Range<u64>) -> Result<u64, Error> {
        let (full_sender, full) = sync_channel(CHUNKS);
        let (empty_sender, empty) = sync_channel(CHUNKS);
        for _ in 0..CHUNKS {
            // There is room for all of them.
            let _ = empty_sender.send(Buffer::new());
        }
        thread::scope(|scope| {
            let reader = thread::Builder::new().name("copy-read".to_owned()).spawn_scoped(scope, {
                let part = part.clone();
                move || self.read(part, &empty, &full_sender)
            });
            let reader = reader.map_err(|error| thread_failed(&error))?;
            let written = self.write(part, full, empty_sender);
            let read = reader.join().map_err(|_| thread_failed(&"it panicked"))?;
            // If the writer failed, the reader only notices that no more is needed.
            written.and_then(|reached| read.map(|()| reached))
        })
    }

    /// Reads until the part ends, the task should stop, or the writer is gone.
    fn read(&self, part: Range<u64>, empty: &Receiver<Buffer>, full: &SyncSender<Chunk>) -> Result<(), Error> {
        let mut source = self.source.lock();
        let mut offset = part.start;
        while offset < part.end && !self.waits_in_vain(offset, part.end) {
            let Ok(mut buffer) = empty.recv() else { return Ok(()) };
            let len = end_of_chunk(offset, part.end) - offset;
            buffer.used = usize::try_from(len).unwrap_or(0);
            source.read(offset, buffer.bytes())?;
            if let Some(edit) = &self.edit {
                edit(offset, buffer.bytes()).map_err(Error::Edit)?;
            }
            if full.send(Chunk { offset, buffer }).is_err() {
                return Ok(());
            }
            offset += len;
        }
        Ok(())
    }

    /// Waits as the rates demand. Returns whether the task should stop.
    fn waits_in_vain(&self, offset: u64, end: u64) -> bool {
        let wait = self.rates.iter().map(|rate| rate.wait_for(end_of_chunk(offset, end) - offset)).max();
        let until = Instant::now() + wait.unwrap_or_default();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if self.handle.cancel.is_cancelled() {
                return true;
            }
            if left.is_zero() {
                return false;
            }
            thread::sleep(left.min(LOOK));
        }
    }

    /// Writes what was read, in order, and returns up to where.
    fn write(&self, part: Range<u64>, full: Receiver<Chunk>, empty: SyncSender<Buffer>) -> Result<u64, Error> {
        let mut target = self.target.lock();
        // Everything before `written` is on the target; from there to `reached` the source contains zeros.
        let (mut written, mut reached) = (part.start, part.start);
        let block = if self.skip_zeros { SKIPPED } else { WRITTEN };
        for Chunk { offset, mut buffer } in full {
            let bytes = buffer.bytes();
            for (part, zeros) in parts(bytes, block) {
                let (begin, end) = (offset + part.start as u64, offset + part.end as u64);
                if written < begin && (!zeros || end - written > ZEROS) {
                    self.write_zeros(&mut **target, written..begin)?;
                    written = begin;
                }
                if !zeros {
                    target.write(begin, bytes.get(part).unwrap_or_default())?;
                    written = end;
                }
            }
            reached = offset + bytes.len() as u64;
            self.report(reached);
            // The reader has read everything.
            let _ = empty.send(buffer);
        }
        if written < reached {
            self.write_zeros(&mut **target, written..reached)?;
        }
        Ok(reached)
    }

    /// Makes these bytes of the target read as zeros, which the source has there.
    fn write_zeros(&self, target: &mut dyn Target, bytes: Range<u64>) -> Result<(), Error> {
        if self.skip_zeros { Ok(()) } else { target.zero(bytes) }
    }

    /// Zeroes these bytes of the target, and returns up to where: less than all if the task should stop. Not flushed.
    pub(super) fn zero(&self, part: Range<u64>) -> Result<u64, Error> {
        let mut target = self.target.lock();
        let mut offset = part.start;
        while offset < part.end && !self.handle.cancel.is_cancelled() {
            let end = offset.saturating_add(ZERO_AT_ONCE).min(part.end);
            target.zero(offset..end)?;
            offset = end;
            self.report(offset);
        }
        Ok(offset)
    }

    fn report(&self, done: u64) {
        self.meter.reach(done);
        #[allow(clippy::cast_precision_loss, reason = "for people")]
        let gib = |bytes: u64| bytes as f64 / Gib(1).bytes() as f64;
        let total = self.meter.measured().total;
        self.handle.progress(format!("copied {:.1} of {:.1} GiB", gib(done), gib(total)));
    }
}

/// Chunks begin at multiples of their size, wherever a copy begins.
fn end_of_chunk(offset: u64, end: u64) -> u64 {
    (offset / CHUNK * CHUNK).saturating_add(CHUNK).min(end)
}

/// Divides a chunk, in whole blocks, where zeros begin and end: the bytes of each part, and whether they are zeros.
fn parts(chunk: &[u8], block: usize) -> Vec<(Range<usize>, bool)> {
    let mut parts: Vec<(Range<usize>, bool)> = Vec::new();
    let mut start = 0;
    for bytes in chunk.chunks(block) {
        let (end, zeros) = (start + bytes.len(), is_zero(bytes));
        match parts.last_mut() {
            Some((part, same)) if *same == zeros => part.end = end,
            _ => parts.push((start..end, zeros)),
        }
        start = end;
    }
    parts
}

/// Whether all bytes are zero. Every byte of a source is looked at, so this takes whole words.
fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

fn thread_failed(error: &dyn std::fmt::Display) -> Error {
    Error::Thread(quarry_volume::Error::host(format!("the thread that reads the source of a copy failed: {error}")))
}

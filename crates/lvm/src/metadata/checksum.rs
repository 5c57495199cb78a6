//! LVM's checksum: the usual CRC-32 with another initial value, and without the final inversion.

const INITIAL: u32 = 0xf597_a6cf;

/// The checksum of these bytes.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    // The usual CRC-32 inverts what it begins with, and its result.
    let mut crc = crc32fast::Hasher::new_with_initial(!INITIAL);
    crc.update(bytes);
    !crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit, with the polynomial of CRC-32, reversed.
    fn slowly(initial: u32, bytes: &[u8]) -> u32 {
        bytes.iter().fold(initial, |sum, byte| {
            (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 })
        })
    }

    #[test]
    fn it_differs_from_crc_32_in_its_start_and_end_only() {
        // The value that all descriptions of CRC-32 give.
        assert_eq!(!slowly(u32::MAX, b"123456789"), 0xcbf4_3926);
        assert_eq!(checksum(b""), INITIAL);
        assert_ne!(checksum(b"123456789"), checksum(b"123456788"));
        for length in [1, 3, 15, 16, 63, 64, 127, 128, 500, 4096, 5000] {
            let bytes: Vec<u8> = (0..length).map(|index: u32| (index * 7 + length).to_le_bytes()[0]).collect();
            assert_eq!(checksum(&bytes), slowly(INITIAL, &bytes), "{length} bytes");
        }
    }
}

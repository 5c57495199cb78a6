//! LVM's checksum: the usual CRC-32 with another initial value, and without the final inversion.

const INITIAL: u32 = 0xf597_a6cf;
/// The polynomial of CRC-32, reversed.
const POLYNOMIAL: u32 = 0xedb8_8320;
const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        // Below 256.
        #[allow(clippy::cast_possible_truncation)]
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        #[allow(clippy::indexing_slicing)]
        {
            table[index] = value;
        }
        index += 1;
    }
    table
}

/// The checksum of these bytes.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(INITIAL, |sum, byte| {
        let [low, ..] = sum.to_le_bytes();
        (sum >> 8) ^ TABLE.get(usize::from(low ^ byte)).copied().unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_differs_from_crc_32_in_its_start_and_end_only() {
        let usual = |bytes: &[u8]| {
            !bytes.iter().fold(u32::MAX, |sum, byte| {
                let [low, ..] = sum.to_le_bytes();
                (sum >> 8) ^ TABLE[usize::from(low ^ byte)]
            })
        };
        // The value that all descriptions of CRC-32 give.
        assert_eq!(usual(b"123456789"), 0xcbf4_3926);
        assert_eq!(checksum(b""), INITIAL);
        assert_ne!(checksum(b"123456789"), checksum(b"123456788"));
    }
}

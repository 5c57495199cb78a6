//! A slice of a soak: `3/12` is the third of twelve, which together try everything once.

use std::fmt;
use std::str::FromStr;

/// Which of a sweep's points, rounds and instants are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// From 1.
    pub number: usize,
    /// How many slices make up the whole.
    pub of: usize,
}

impl Slice {
    /// All of it.
    pub const WHOLE: Self = Self { number: 1, of: 1 };

    /// Whether the item of this index (from 0) is tried in this slice. Each index belongs to exactly one slice.
    pub fn has(self, index: usize) -> bool {
        index % self.of == self.number - 1
    }

    /// The first number, counted from 1, that is tried in this slice; the others follow at steps of [`Self::of`].
    pub fn first(self) -> u64 {
        self.number as u64
    }

    /// The number that is tried after this one.
    pub fn after(self, number: u64) -> u64 {
        number + self.of as u64
    }
}

/// The most slices that a soak is cut into: the smallest sweep has as many rounds.
const MOST: usize = 40;

impl FromStr for Slice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match parts {
            Some((number, of)) if (1..=of).contains(&number) && of <= MOST => Ok(Self { number, of }),
            _ => Err(format!("{text:?} is not a slice of {MOST} at most; write 3/12 for the third of twelve")),
        }
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_share_everything_out_once() {
        let slices: Vec<Slice> = (1..=12).map(|number| format!("{number}/12").parse().unwrap()).collect();
        for index in 0..100 {
            assert_eq!(slices.iter().filter(|slice| slice.has(index)).count(), 1, "index {index}");
        }
        let mut numbers: Vec<u64> = Vec::new();
        for slice in slices {
            let mut number = slice.first();
            while number <= 100 {
                numbers.push(number);
                number = slice.after(number);
            }
        }
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(1..=100));
        assert!((0..100).all(|index| Slice::WHOLE.has(index)));
    }

    #[test]
    fn an_invalid_slice_is_rejected() {
        for text in ["", "3", "0/12", "13/12", "1/0", "a/b", "1/2/3", "-1/2", "1/41"] {
            assert!(text.parse::<Slice>().is_err(), "{text}");
        }
        assert_eq!("3/12".parse::<Slice>().unwrap().to_string(), "3/12");
    }
}

//! The `config` file: version, id and chunker polynomial of a repository. Written once, never changed by us.

use serde::{Deserialize, Serialize};

use crate::crypto::random;
use crate::error::{Error, Kind, Result};
use crate::model::Id;

/// `config` as JSON. Unknown fields (rustic's) are ignored.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct ConfigFile {
    /// 1 (no compression) or 2.
    pub version: u32,
    /// Random; names the repository.
    pub id: Id,
    /// For stock clients' chunker: lower-case hex, irreducible over GF(2), degree 53.
    pub chunker_polynomial: String,
}

impl ConfigFile {
    /// A new repository of version 2.
    #[must_use]
    pub fn generate() -> Self {
        let mut id = [0; 32];
        random(&mut id);
        let polynomial = loop {
            let mut bytes = [0; 8];
            random(&mut bytes);
            let candidate = u64::from_le_bytes(bytes) & ((1 << 54) - 1) | (1 << 53) | 1;
            if is_irreducible(candidate) {
                break candidate;
            }
        };
        Self { version: 2, id: Id(id), chunker_polynomial: format!("{polynomial:x}") }
    }

    /// Refuses what this engine cannot work with.
    ///
    /// # Errors
    /// An unknown version, or a polynomial that stock clients would refuse.
    pub fn check(&self) -> Result<()> {
        if !(1..=2).contains(&self.version) {
            return Err(Error::new(
                Kind::Failed,
                format!("the repository has format version {}; versions 1 and 2 are known", self.version),
            )
            .hint("Use a newer strongroom."));
        }
        match u64::from_str_radix(&self.chunker_polynomial, 16) {
            Ok(p) if is_irreducible(p) => Ok(()),
            _ => Err(Error::new(Kind::Corrupt, "the repository's chunker polynomial is not irreducible")),
        }
    }
}

/// Ben-Or: a polynomial of degree n is irreducible if it has no factor in common with x^(2^i) − x for i ≤ n/2.
fn is_irreducible(p: u64) -> bool {
    let Some(degree) = degree(p).filter(|d| *d > 0) else { return false };
    let mut power = 2u64; // x
    for _ in 0..degree / 2 {
        power = multiply_mod(power, power, p);
        if gcd(p, power ^ 2) != 1 {
            return false;
        }
    }
    true
}

fn degree(p: u64) -> Option<u32> {
    p.checked_ilog2()
}

fn remainder(mut a: u64, p: u64) -> u64 {
    let Some(n) = degree(p) else { return 0 };
    while let Some(d) = degree(a).filter(|d| *d >= n) {
        a ^= p << (d - n);
    }
    a
}

fn multiply_mod(mut a: u64, mut b: u64, p: u64) -> u64 {
    let top = degree(p).map_or(0, |d| 1u64 << d);
    a = remainder(a, p);
    let mut out = 0;
    while b != 0 {
        if b & 1 == 1 {
            out ^= a;
        }
        b >>= 1;
        a <<= 1;
        if a & top != 0 {
            a ^= p;
        }
    }
    out
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, remainder(a, b));
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_irreducible_polynomials() {
        // From restic's documentation and tests.
        for good in [0x0025_b468_838d_cb75, 0x003d_a335_8b4d_c173] {
            assert!(is_irreducible(good), "{good:x}");
        }
        // x^2, x(x+1), (x+1)^2, and a product of two of degree 2 and 3.
        for bad in [0, 1, 0b100, 0b110, 0b101, 0b111 * 2, multiply_mod(0b111, 0b1011, 1 << 60)] {
            assert!(!is_irreducible(bad), "{bad:b}");
        }
        assert!(ConfigFile::generate().check().is_ok());
    }
}

//! Keys: what an identifier is before any table is known.
//!
//! Packed data, requests and golden examples all hold the same 64-bit keys, so the only fitted thing
//! between an identifier and its embedding row is the vocabulary.
//! XXH3: <https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md>.

use xxhash_rust::xxh3::xxh3_64;

/// The key of a missing identifier. It is the bit pattern of `i64::MIN`, which is refused as an identifier.
pub const MISSING_KEY: u64 = 1 << 63;

/// The time of a missing timestamp, in the place of milliseconds since the epoch.
pub const MISSING_TIME: i64 = i64::MIN;

/// Bytes 8 to 15 of XXH3's default secret, exclusive or bytes 16 to 23.
const HASH_SECRET: u64 = 0x1cad_21f7_2c81_017c ^ 0xdb97_9083_e96d_d4de;
/// `PRIME_MX2` of the specification.
const HASH_PRIME: u64 = 0x9fb2_1c65_1e98_df25;

/// The one integer that cannot be an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} cannot be an identifier: its bits mark a missing one; leave the value out instead",
    i64::MIN
)]
pub struct ReservedKey;

/// The key of an integer identifier: its own bits.
///
/// # Errors
/// `i64::MIN` is refused, see [`MISSING_KEY`].
pub fn from_integer(value: i64) -> Result<u64, ReservedKey> {
    let key = u64::from_ne_bytes(value.to_ne_bytes());
    if key == MISSING_KEY {
        Err(ReservedKey)
    } else {
        Ok(key)
    }
}

/// The key of a text identifier: XXH3-64 of its UTF-8 bytes, moved by one where that is [`MISSING_KEY`].
pub fn from_text(value: &str) -> u64 {
    from_utf8(value.as_bytes())
}

/// The key of a text identifier whose bytes are known to be UTF-8, such as those of ASCII text.
#[inline]
pub fn from_utf8(value: &[u8]) -> u64 {
    match xxh3_64(value) {
        MISSING_KEY => MISSING_KEY + 1,
        key => key,
    }
}

/// The key of a truth value: 1 or 0.
pub fn from_boolean(value: bool) -> u64 {
    u64::from(value)
}

/// Spreads a key evenly over 64 bits: XXH3-64 of its eight little-endian bytes.
///
/// Hashed tables and the rows of unseen identifiers are chosen by this value.
#[inline(always)]
pub fn hash(key: u64) -> u64 {
    // What the specification does with four to eight bytes, written out so that loops over keys become vectors.
    let keyed = key.rotate_left(32) ^ HASH_SECRET;
    let mixed = keyed ^ keyed.rotate_left(49) ^ keyed.rotate_left(24);
    let mixed = mixed.wrapping_mul(HASH_PRIME);
    let mixed = (mixed ^ (mixed >> 35).wrapping_add(8)).wrapping_mul(HASH_PRIME);
    mixed ^ (mixed >> 28)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn hashes_are_xxh3_of_eight_bytes(key: u64) {
            prop_assert_eq!(hash(key), xxh3_64(&key.to_le_bytes()));
        }
    }

    #[test]
    fn integers_keep_their_bits() {
        assert_eq!(from_integer(42), Ok(42));
        assert_eq!(from_integer(-1), Ok(u64::MAX));
        assert_eq!(from_integer(i64::MIN), Err(ReservedKey));
    }

    #[test]
    fn text_is_xxh3_of_its_bytes() {
        // The reference implementation's value for the empty input with seed 0.
        assert_eq!(from_text(""), 0x2d06_8005_38d3_94c2);
        assert_ne!(from_text("a"), from_text("b"));
    }

    #[test]
    fn hashes_are_stable_across_releases() {
        // Of the reference implementation (xxhash 0.8), over the eight bytes.
        assert_eq!(hash(1), 0x2fbc_5935_64db_792e);
        assert_eq!(hash(123_456_789), 0x2719_6ab4_438f_6ad5);
        for key in [0, 1, MISSING_KEY, u64::MAX] {
            assert_eq!(hash(key), xxh3_64(&key.to_le_bytes()));
        }
        assert_eq!(from_text("user-7"), 0xb1de_7a36_4def_053e);
    }
}

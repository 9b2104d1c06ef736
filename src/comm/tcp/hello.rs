//! How two ranks make sure of each other before they talk.
//!
//! ```text
//! 48 bytes: MAGIC u64 | token 16 bytes | size u32 | from u32 | to u32 | order u32 | 0 u64
//! ```
//! Both ends send one, whoever connects first. All is little-endian except the order, which tells the byte order of
//! the values that follow.

use std::fmt;
use std::io::Read;
use std::str::FromStr;

/// The last digits are the version.
const MAGIC: u64 = 0x5354_524d_5443_0001;

const ORDER: u32 = 0x0102_0304;

pub(super) const HELLO_BYTES: usize = 48;

/// Something that nobody can guess: the ranks of a job have it from the rendezvous.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token([u8; 16]);

/// What a rank says first on a stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hello {
    pub(super) token: Token,
    pub(super) size: u32,
    pub(super) from: u32,
    pub(super) to: u32,
}

impl Token {
    pub(super) fn new() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// Takes a time that tells nothing of where they differ.
    fn is(self, other: Self) -> bool {
        let differ = self.0.iter().zip(other.0).map(|(one, other)| one ^ other);
        differ.fold(0, |all, one| all | one) == 0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_whole = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok().filter(|_| is_whole);
        let number = number.ok_or_else(|| "expected 32 hexadecimal digits".to_owned())?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl Hello {
    pub(super) fn encode(self) -> [u8; HELLO_BYTES] {
        let mut text = [0; HELLO_BYTES];
        text[..8].copy_from_slice(&MAGIC.to_le_bytes());
        text[8..24].copy_from_slice(&self.token.0);
        for (place, number) in [(24, self.size), (28, self.from), (32, self.to)] {
            text[place..place + 4].copy_from_slice(&number.to_le_bytes());
        }
        text[36..40].copy_from_slice(&ORDER.to_ne_bytes());
        text
    }

    /// The rank that says `text` to rank `to` of a group of `size`, if it is one of the group.
    pub(super) fn admit(self, text: &[u8; HELLO_BYTES]) -> Result<usize, &'static str> {
        let number = |place: usize| {
            let bytes = [
                text[place],
                text[place + 1],
                text[place + 2],
                text[place + 3],
            ];
            u32::from_le_bytes(bytes)
        };
        let mut token = [0; 16];
        token.copy_from_slice(&text[8..24]);
        if text[..8] != MAGIC.to_le_bytes() {
            return Err("it is no rank, or one of another version of this program");
        }
        if !self.token.is(Token(token)) {
            return Err("it is of another job");
        }
        if text[36..40] != ORDER.to_ne_bytes() {
            return Err("its machine has another byte order");
        }
        let (size, from, to) = (number(24), number(28), number(32));
        if size != self.size || from >= size || from == to || to != self.from {
            return Err("it means another rank, or a group of another size");
        }
        Ok(from as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello(token: Token, from: u32, to: u32) -> Hello {
        Hello {
            token,
            size: 4,
            from,
            to,
        }
    }

    #[test]
    fn a_rank_of_the_group_is_admitted() {
        let token = Token::new().unwrap();
        let told: Token = token.to_string().parse().unwrap();
        let text = hello(token, 3, 1).encode();
        assert_eq!(hello(told, 1, 3).admit(&text), Ok(3));
    }

    #[test]
    fn others_are_told_from_it() {
        let token = Token::new().unwrap();
        let own = hello(token, 1, 3);
        let refusal = |text: [u8; HELLO_BYTES]| own.admit(&text).unwrap_err();
        let stranger = hello(Token::new().unwrap(), 3, 1);
        assert_eq!(refusal(stranger.encode()), "it is of another job");
        for (from, to) in [(3, 2), (4, 1), (1, 1)] {
            assert!(refusal(hello(token, from, to).encode()).contains("another rank"));
        }
        let larger = Hello {
            size: 5,
            ..hello(token, 3, 1)
        };
        assert!(refusal(larger.encode()).contains("another size"));
        assert!(refusal([0; HELLO_BYTES]).contains("no rank"));
    }

    proptest! {
        #[test]
        fn one_wrong_byte_is_enough(place in 0..40usize, bits in 1u8..) {
            let token: Token = "00112233445566778899aabbccddeeff".parse().unwrap();
            let mut text = hello(token, 3, 1).encode();
            text[place] ^= bits;
            let admitted = hello(token, 1, 3).admit(&text);
            // The sender may well be another one of the group.
            prop_assert!(admitted.is_err() || (28..32).contains(&place));
        }
    }

    #[test]
    fn malformed_tokens_are_refused() {
        for text in [
            "",
            "12",
            "0x112233445566778899aabbccddeeff",
            "+0112233445566778899aabbccddeeff",
        ] {
            assert!(text.parse::<Token>().is_err(), "{text}");
        }
    }
}

//! Where another process finds a control page.

use std::fmt;
use std::str::FromStr;

/// A control page's segment: the host, the process that holds it open, and its file number; the
/// token tells it from anything else that may later have that number.
///
/// Written as `boot_id:pid:fd:token`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// Changes with every boot of a kernel, so equal ids mean one host.
    pub(super) boot_id: String,
    pub(super) pid: u32,
    pub(super) fd: u32,
    pub(super) token: u64,
}

impl Address {
    /// The address of the segment `fd` of this process.
    pub(super) fn of_own(fd: u32, token: u64) -> std::io::Result<Self> {
        Ok(Self {
            boot_id: boot_id()?,
            pid: std::process::id(),
            fd,
            token,
        })
    }
}

/// The id of the running kernel.
pub(super) fn boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// A random number that no other communicator has.
pub(super) fn fresh_token() -> std::io::Result<u64> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(xxhash_rust::xxh3::xxh3_64(uuid.as_bytes()))
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}:{}:{}:{:016x}",
            self.boot_id, self.pid, self.fd, self.token
        )
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let malformed = || format!("expected `boot_id:pid:fd:token`, got `{text}`");
        let [boot_id, pid, fd, token] = parts[..] else {
            return Err(malformed());
        };
        Ok(Self {
            boot_id: boot_id.to_owned(),
            pid: pid.parse().map_err(|_| malformed())?,
            fd: fd.parse().map_err(|_| malformed())?,
            token: u64::from_str_radix(token, 16).map_err(|_| malformed())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_its_text() {
        let address = Address::of_own(17, fresh_token().unwrap()).unwrap();
        assert_eq!(address.to_string().parse(), Ok(address));
    }

    #[test]
    fn malformed_addresses_are_named() {
        for text in ["", "a:1:2", "a:b:2:3", "a:1:2:xyz", "a:1:2:3:4", "a:-1:2:3"] {
            assert!(
                text.parse::<Address>()
                    .unwrap_err()
                    .ends_with(&format!("got `{text}`"))
            );
        }
    }
}

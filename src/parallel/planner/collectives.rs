/// Seconds of a collective by its bytes, a straight line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// Of no bytes.
    pub latency_s: f64,
    /// Bytes a second beyond that.
    pub bytes_per_s: f64,
}

impl Line {
    /// Seconds of so many bytes; none where nothing is sent.
    pub fn seconds(&self, bytes: f64) -> f64 {
        if bytes > 0.0 {
            self.latency_s + bytes / self.bytes_per_s
        } else {
            0.0
        }
    }

    /// Through two measurements, `(bytes, seconds)` each, the smaller one first.
    pub fn through(small: (f64, f64), large: (f64, f64)) -> Self {
        let bytes_per_s = (large.0 - small.0) / (large.1 - small.1).max(1e-9);
        Self {
            latency_s: (small.1 - small.0 / bytes_per_s).max(0.0),
            bytes_per_s,
        }
    }
}

/// What collectives among all ranks take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Collectives {
    /// By the bytes of the buffer.
    pub all_reduce: Line,
    /// By the bytes that a rank receives from all others.
    pub all_gather: Line,
    /// By the bytes that a rank sends to all others.
    pub all_to_all: Line,
}

/// A way between two ranks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// Seconds until the first byte arrives.
    pub latency_s: f64,
    /// Bytes a second that a rank sends while it receives as many.
    pub bytes_per_s: f64,
}

impl Collectives {
    /// Of `ranks` over hosts of `per_host` each, joined by `inside` a host and by `between` hosts, where each
    /// rank has its own way out.
    ///
    /// An all-reduce is a reduce-scatter inside the host, an all-reduce of each part between hosts, and an
    /// all-gather inside; a ring sends `(n - 1) / n` of the bytes each way (Thakur et al., "Optimization of
    /// Collective Communication Operations in MPICH", 2005, section 4).
    pub fn of_links(ranks: usize, per_host: usize, inside: Link, between: Link) -> Self {
        let local = per_host.clamp(1, ranks.max(1)) as f64;
        let hosts = (ranks as f64 / local).max(1.0);
        let others = (ranks as f64 - 1.0).max(1.0);
        let spread = |n: f64| (n - 1.0) / n;
        let out = if hosts > 1.0 { 1.0 } else { 0.0 };
        let line = |seconds_per_byte: f64, latency_s: f64| Line {
            latency_s,
            bytes_per_s: 1.0 / seconds_per_byte.max(f64::MIN_POSITIVE),
        };
        let steps = |n: f64| n.log2().ceil();
        let latency = inside.latency_s * steps(local) + between.latency_s * steps(hosts);
        let reduced = 2.0 * spread(local) / inside.bytes_per_s
            + out * 2.0 * spread(hosts) / (local * between.bytes_per_s);
        // Of what goes to others, or comes from them, most leaves a host where there are many.
        let away = (ranks as f64 - local) / others;
        let exchanged = ((1.0 - away) / inside.bytes_per_s).max(away / between.bytes_per_s);
        let once = inside.latency_s.max(out * between.latency_s);
        Self {
            all_reduce: line(reduced, 2.0 * latency),
            all_gather: line(exchanged, latency),
            all_to_all: line(exchanged, once),
        }
    }

    /// No other rank.
    pub const ALONE: Self = {
        let free = Line {
            latency_s: 0.0,
            bytes_per_s: f64::INFINITY,
        };
        Self {
            all_reduce: free,
            all_gather: free,
            all_to_all: free,
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const NVLINK: Link = Link {
        latency_s: 1e-6,
        bytes_per_s: 400e9,
    };
    const NETWORK: Link = Link {
        latency_s: 5e-6,
        bytes_per_s: 50e9,
    };

    #[test]
    fn a_line_goes_through_what_was_measured() {
        let line = Line::through((1e3, 12e-6), (1e6, 111e-6));
        assert!((line.seconds(1e3) - 12e-6).abs() < 1e-9);
        assert!((line.seconds(1e6) - 111e-6).abs() < 1e-9);
        assert_eq!(line.seconds(0.0), 0.0);
    }

    #[test]
    fn a_ring_in_one_host_sends_nearly_twice_the_buffer() {
        let eight = Collectives::of_links(8, 8, NVLINK, NETWORK);
        let seconds = eight.all_reduce.seconds(1e9);
        assert!(
            (seconds - 2.0 * 7.0 / 8.0 / 400.0).abs() < 1e-4,
            "{seconds}"
        );
    }

    #[test]
    fn hosts_are_slower_than_one_and_each_rank_carries_its_part() {
        let (one, eight) = (
            Collectives::of_links(8, 8, NVLINK, NETWORK),
            Collectives::of_links(64, 8, NVLINK, NETWORK),
        );
        let extra = eight.all_reduce.seconds(1e9) - one.all_reduce.seconds(1e9);
        assert!(
            (extra - 2.0 * 7.0 / 8.0 / 8.0 / 50.0).abs() < 1e-4,
            "{extra}"
        );
        // 56 of 63 parts leave the host.
        let exchanged = eight.all_to_all.seconds(1e9);
        assert!((exchanged - 56.0 / 63.0 / 50.0).abs() < 1e-4, "{exchanged}");
        assert!(one.all_to_all.seconds(1e9) < 0.2 * exchanged);
    }
}

//! Collectives of emulated devices: what they carry travels as messages between the ranks' hosts.
//!
//! As on a GPU, nothing is there before it is waited for. Meanwhile memory that a collective writes holds NaN, and
//! whoever writes what is in flight is told when it is finished.

use streamrec_kernels::cuda::{
    Address, Begun, Collective, DeviceError, Group,
    collective::{Element, Reduce},
};
use streamrec_kernels::{bf16, f16};

use crate::Emulator;

/// Messages that are on their way: waits for those of all ranks, in rank order.
pub type Arriving = Box<dyn FnOnce() -> Result<Vec<Vec<u8>>, String> + Send>;

/// The other ranks, reached from the host.
pub trait Peers: Send {
    /// `[rank, ranks]`
    fn rank(&self) -> [usize; 2];

    /// Begins to send `messages[r]` to rank r.
    fn exchange(&mut self, messages: Vec<Vec<u8>>) -> Arriving;
}

/// The ranks' devices as this one sees them.
#[derive(Default)]
pub(crate) struct Ranks {
    peers: Option<Box<dyn Peers>>,
    /// Those of data-parallel and tensor-parallel groups, where all are not data-parallel.
    mesh: Option<[Box<dyn Peers>; 2]>,
    /// By the number that they are waited for with, in the order in which they were begun.
    in_flight: Vec<(usize, Vec<InFlight>)>,
    /// Numbers that were given out and are not finished.
    taken: Vec<bool>,
    /// What was begun last.
    last: Option<&'static str>,
    /// What failed.
    failed: Option<&'static str>,
}

struct InFlight {
    what: &'static str,
    /// In the group.
    place: [usize; 2],
    collective: Collective,
    /// What each rank says that it was asked for.
    asked: String,
    arriving: Arriving,
    /// What it reads, as it was.
    read: Vec<u8>,
}

impl Emulator {
    /// A device among those of other ranks.
    pub fn with_peers(mut self, peers: Box<dyn Peers>) -> Self {
        self.ranks.peers = Some(peers);
        self
    }

    /// A device in the groups of a mesh, after [`with_peers`](Self::with_peers).
    pub fn with_mesh(mut self, dp: Box<dyn Peers>, tp: Box<dyn Peers>) -> Self {
        self.ranks.mesh = Some([dp, tp]);
        self
    }

    pub(crate) fn rank_in(&self, group: Group) -> [usize; 2] {
        let peers = match (group, &self.ranks.mesh) {
            (Group::World, _) | (Group::DataParallel, None) => self.ranks.peers.as_ref(),
            (Group::TensorParallel, None) => None,
            (Group::DataParallel, Some([dp, _])) => Some(dp),
            (Group::TensorParallel, Some([_, tp])) => Some(tp),
        };
        peers.map_or([0, 1], |own| own.rank())
    }

    pub(crate) fn last_collective(&self) -> Option<&'static str> {
        // They run one after the other: a device comes to none before those that were begun earlier are done.
        let first = self.ranks.in_flight.iter().flat_map(|(_, begun)| begun);
        let earliest = first.map(|one| one.what).next();
        self.ranks.failed.or(earliest).or(self.ranks.last)
    }

    /// The number of the collectives that are begun next.
    pub(crate) fn take_number(&mut self) -> usize {
        let taken = &mut self.ranks.taken;
        let free = taken.iter().position(|taken| !taken);
        let number = free.unwrap_or_else(|| {
            taken.push(false);
            taken.len() - 1
        });
        taken[number] = true;
        number
    }

    /// Refuses recordings that collectives cross, as CUDA does.
    pub(crate) fn nothing_begun(&self, call: &'static str) -> Result<(), DeviceError> {
        match self.ranks.taken.contains(&true) {
            true => Err(DeviceError::Recording { call }),
            false => Ok(()),
        }
    }

    /// After a recording that failed, whose collectives never begin.
    pub(crate) fn forget_begun(&mut self) {
        self.ranks.taken.clear();
    }

    pub(crate) fn give_number_back(&mut self, begun: &Begun) {
        self.ranks.taken[begun.0] = false;
    }

    pub(crate) fn begin_collectives(
        &mut self,
        number: usize,
        group: Group,
        what: &'static str,
        collectives: &[Collective],
    ) -> Result<(), DeviceError> {
        self.ranks.last = Some(what);
        let mut begun = Vec::new();
        for collective in collectives {
            begun.push(self.begin_one(group, what, collective)?);
        }
        self.ranks.in_flight.push((number, begun));
        Ok(())
    }

    fn begin_one(
        &mut self,
        group: Group,
        what: &'static str,
        collective: &Collective,
    ) -> Result<InFlight, DeviceError> {
        let place = self.rank_in(group);
        let [rank, ranks] = place;
        let [reads, writes] = collective.memory(ranks);
        let memory = |place: Option<(Address, usize)>| {
            place.map_or(Vec::new(), |(at, bytes)| self.bytes(at, bytes))
        };
        let (read, written) = (memory(reads), memory(writes));
        let content = match collective {
            Collective::AllReduce { .. } => vec![written; ranks],
            Collective::Broadcast { root, .. } if *root == rank => vec![written; ranks],
            Collective::Broadcast { .. } => vec![Vec::new(); ranks],
            Collective::AllGather { .. } => vec![read.clone(); ranks],
            Collective::ReduceScatter { len, element, .. } => {
                let parts = read.chunks(len.max(&1) * element.bytes());
                let mut parts: Vec<Vec<u8>> = parts.map(<[u8]>::to_vec).collect();
                parts.resize(ranks, Vec::new());
                parts
            }
            Collective::AllToAll { sends, element, .. } => {
                let mut rest = read.as_slice();
                let parts = sends.iter().map(|len| {
                    let (own, after) = rest.split_at(len * element.bytes());
                    rest = after;
                    own.to_vec()
                });
                parts.collect()
            }
        };
        if let Some((at, bytes)) = writes {
            self.fill(at, bytes);
        }
        // Each message begins with what the rank was asked for.
        let asked = match self.replays {
            true => format!("{collective}, recorded"),
            false => collective.to_string(),
        };
        let message = |content: Vec<u8>| {
            let len = (asked.len() as u64).to_le_bytes();
            [len.as_slice(), asked.as_bytes(), &content].concat()
        };
        let messages = content.into_iter().map(message).collect();
        let peers = match (group, &mut self.ranks.mesh) {
            (Group::DataParallel, Some([dp, _])) => Some(dp),
            (Group::TensorParallel, Some([_, tp])) => Some(tp),
            (Group::TensorParallel, None) => None,
            _ => self.ranks.peers.as_mut(),
        };
        let peers = peers.ok_or_else(|| failed(what, collective, "there are no other ranks"))?;
        Ok(InFlight {
            what,
            place,
            collective: collective.clone(),
            asked,
            arriving: peers.exchange(messages),
            read,
        })
    }

    pub(crate) fn finish_collectives(&mut self, number: usize) -> Result<(), DeviceError> {
        let earliest = self.last_collective();
        let mut in_flight = self.ranks.in_flight.iter();
        let place = in_flight.position(|(other, _)| *other == number);
        let place = place.expect("what is finished was begun");
        for one in self.ranks.in_flight.remove(place).1 {
            let outcome = self.finish_one(one);
            if outcome.is_err() {
                self.ranks.failed = earliest;
            }
            outcome?;
        }
        Ok(())
    }

    fn finish_one(&mut self, one: InFlight) -> Result<(), DeviceError> {
        let (what, collective) = (one.what, &one.collective);
        let [rank, ranks] = one.place;
        let messages = (one.arriving)().map_err(|error| failed(what, collective, &error))?;
        let content = contents((what, collective), &one.asked, &messages)?;
        let [reads, writes] = collective.memory(ranks);
        let changed = |place: Option<(Address, usize)>, expected: &dyn Fn(usize, u8) -> bool| {
            let Some((at, bytes)) = place else {
                return false;
            };
            let now = self.bytes(at, bytes);
            now.iter()
                .enumerate()
                .any(|(index, &byte)| !expected(index, byte))
        };
        if changed(reads, &|index, byte| byte == one.read[index])
            || changed(writes, &|_, byte| byte == 0xff)
        {
            let text = format!("{what} ({collective}): memory in flight was written");
            return Err(DeviceError::Undefined(text));
        }
        let result = match collective {
            Collective::AllReduce {
                element, reduce, ..
            }
            | Collective::ReduceScatter {
                element, reduce, ..
            } => reduced(&content, *element, *reduce),
            Collective::Broadcast { root, .. } => content[*root].to_vec(),
            Collective::AllGather { .. } | Collective::AllToAll { .. } => content.concat(),
        };
        let Some((at, bytes)) = writes else {
            return Ok(());
        };
        if result.len() != bytes {
            let text = format!("rank {rank} expects {bytes} bytes, {} came", result.len());
            return Err(failed(what, collective, &text));
        }
        let place = self.place(at, bytes);
        // SAFETY: the bytes are inside a buffer.
        unsafe { std::ptr::copy_nonoverlapping(result.as_ptr(), place, bytes) };
        Ok(())
    }

    pub(crate) fn bytes(&self, at: Address, bytes: usize) -> Vec<u8> {
        let mut own = vec![0; bytes];
        let place = self.place(at, bytes);
        // SAFETY: the bytes are inside a buffer.
        unsafe { std::ptr::copy_nonoverlapping(place, own.as_mut_ptr(), bytes) };
        own
    }

    pub(crate) fn fill(&self, at: Address, bytes: usize) {
        let place = self.place(at, bytes);
        // SAFETY: the bytes are inside a buffer.
        unsafe { std::ptr::write_bytes(place, 0xff, bytes) };
    }
}

/// What ranks sent, once all of them were asked for the same.
fn contents<'a>(
    (what, collective): (&'static str, &Collective),
    expected: &str,
    messages: &'a [Vec<u8>],
) -> Result<Vec<&'a [u8]>, DeviceError> {
    let content = |(rank, message): (usize, &'a Vec<u8>)| {
        let (len, rest) = message.split_at(size_of::<u64>());
        let len = u64::from_le_bytes(len.try_into().expect("eight bytes"));
        let (header, content) = rest.split_at(len as usize);
        match header == expected.as_bytes() {
            true => Ok(content),
            false => {
                let theirs = String::from_utf8_lossy(header);
                let text = format!("rank {rank} was asked for {theirs}");
                Err(failed(what, collective, &text))
            }
        }
    };
    messages.iter().enumerate().map(content).collect()
}

fn failed(what: &'static str, collective: &Collective, message: &str) -> DeviceError {
    DeviceError::Collective {
        what,
        call: collective.to_string(),
        message: message.to_owned(),
    }
}

/// The elements of all ranks, in rank order, rounded after each step.
fn reduced(ranks: &[&[u8]], element: Element, reduce: Reduce) -> Vec<u8> {
    let float = |sum: f32, x: f32| match reduce {
        Reduce::Sum => sum + x,
        Reduce::Max => sum.max(x),
    };
    macro_rules! fold {
        ($kind:ty, $combine:expr) => {
            fold::<$kind>(ranks, $combine)
        };
    }
    match element {
        Element::F32 => fold!(f32, float),
        Element::Bf16 => fold!(bf16, |sum, x| bf16::from_f32(float(
            sum.to_f32(),
            x.to_f32()
        ))),
        Element::F16 => fold!(f16, |sum, x| f16::from_f32(float(sum.to_f32(), x.to_f32()))),
        Element::F64 => fold!(f64, |sum, x| match reduce {
            Reduce::Sum => sum + x,
            Reduce::Max => sum.max(x),
        }),
        Element::U32 => fold!(u32, |sum, x| match reduce {
            Reduce::Sum => sum.wrapping_add(x),
            Reduce::Max => sum.max(x),
        }),
        Element::U64 => fold!(u64, |sum, x| match reduce {
            Reduce::Sum => sum.wrapping_add(x),
            Reduce::Max => sum.max(x),
        }),
        Element::U8 => fold!(u8, |sum, x| match reduce {
            Reduce::Sum => sum.wrapping_add(x),
            Reduce::Max => sum.max(x),
        }),
    }
}

fn fold<T: bytemuck::Pod>(ranks: &[&[u8]], combine: impl Fn(T, T) -> T) -> Vec<u8> {
    let mut own: Vec<T> = crate::values::read(ranks[0]);
    for theirs in &ranks[1..] {
        let theirs: Vec<T> = crate::values::read(theirs);
        for (sum, x) in own.iter_mut().zip(theirs) {
            *sum = combine(*sum, x);
        }
    }
    bytemuck::cast_slice(&own).to_vec()
}

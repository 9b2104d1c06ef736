//! The stream to one other rank, which never blocks.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use super::frame::{HEAD_BYTES, Head};
use crate::comm::messaging::MESSAGE_TAG;

/// Bytes that are read at once where no place for them is known yet: a message with its data, mostly.
const BUFFER_BYTES: usize = 32 * 1024;

/// What a rank that leaves still takes, so that the system does not reset the connection and lose its last words.
const DRAIN_BYTES: usize = 16 << 20;

/// One other rank.
pub(super) struct Peer {
    stream: TcpStream,
    /// Bytes that have come and are not taken: `buffer[start..end]`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The frame under way, with the bytes that are left of it.
    incoming: Option<Head>,
    /// Whose data they are, once they are being received.
    receiver: Option<u64>,
    /// What has come of a message.
    message: Vec<u8>,
    outgoing: VecDeque<Outgoing>,
    /// Whether the system may have bytes for us, or room for ours.
    is_readable: bool,
    is_writable: bool,
    /// Whether nothing can be sent any more.
    is_deaf: bool,
    /// Whether nothing comes any more, and whether that was told.
    has_ended: bool,
    has_told: bool,
}

/// What is to be sent, in order.
enum Outgoing {
    /// Heads and messages, from this byte on.
    Bytes(Vec<u8>, usize),
    /// Data that whoever has this ticket writes, and how many bytes are left.
    Data { ticket: u64, left: usize },
}

/// What comes next from a rank.
pub(super) enum Next {
    /// A message.
    Message(Vec<u8>),
    /// Data, whose place is not known here.
    Data,
    /// Something that has not come in whole.
    Nothing,
    /// The end; told once.
    End,
}

impl Peer {
    /// Takes a stream over whose other end the rank is known.
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            buffer: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
            incoming: None,
            receiver: None,
            message: Vec::new(),
            outgoing: VecDeque::new(),
            is_readable: true,
            is_writable: true,
            is_deaf: false,
            has_ended: false,
            has_told: false,
        })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes after all that is to be sent before.
    pub(super) fn say(&mut self, bytes: Vec<u8>) {
        if !self.is_deaf {
            self.outgoing.push_back(Outgoing::Bytes(bytes, 0));
            self.push();
        }
    }

    /// Makes room for data, which [`send`](Self::send) writes.
    pub(super) fn announce(&mut self, ticket: u64, head: Head) {
        if !self.is_deaf {
            let left = head.bytes as usize;
            let head = Outgoing::Bytes(head.encode().to_vec(), 0);
            self.outgoing
                .extend([head, Outgoing::Data { ticket, left }]);
        }
    }

    /// Goes on sending what is not data; returns whether all is out.
    pub(super) fn push(&mut self) -> bool {
        while self.is_writable
            && let Some(Outgoing::Bytes(bytes, done)) = self.outgoing.front_mut()
        {
            if *done == bytes.len() {
                self.outgoing.pop_front();
                continue;
            }
            match self.stream.write(&bytes[*done..]) {
                Ok(count) => *done += count,
                Err(error) => self.refused(&error),
            }
        }
        self.outgoing.is_empty()
    }

    /// Notes that nothing can be written now, or never any more. Whether the other end is gone is told by reading.
    fn refused(&mut self, error: &io::Error) {
        match error.kind() {
            ErrorKind::Interrupted => {}
            ErrorKind::WouldBlock => self.is_writable = false,
            _ => {
                self.is_deaf = true;
                self.outgoing.clear();
            }
        }
    }

    /// Writes data with this ticket, if it is their turn; returns how many bytes are left of them.
    pub(super) fn send(&mut self, ticket: u64, data: &[u8]) -> usize {
        self.push();
        let mut sent = 0;
        while let Some(Outgoing::Data { ticket: own, left }) = self.outgoing.front_mut()
            && *own == ticket
        {
            if *left == 0 {
                self.outgoing.pop_front();
                self.push();
                return 0;
            }
            if !self.is_writable {
                break;
            }
            match self.stream.write(&data[sent..]) {
                Ok(count) => {
                    sent += count;
                    *left -= count;
                }
                Err(error) => self.refused(&error),
            }
        }
        data.len() - sent
    }

    /// Gives up data, of which `rest` are left: what was begun is finished, and what was not is taken back.
    pub(super) fn give_up(&mut self, ticket: u64, rest: &[u8]) {
        let is_it = |outgoing: &Outgoing| matches!(outgoing, Outgoing::Data { ticket: own, .. } if *own == ticket);
        let Some(place) = self.outgoing.iter().position(is_it) else {
            return;
        };
        // Its head is before it, unless that is out.
        let before = place.checked_sub(1).map(|place| &self.outgoing[place]);
        if matches!(before, Some(Outgoing::Bytes(_, 0))) {
            self.outgoing.drain(place - 1..=place);
        } else {
            self.outgoing[place] = Outgoing::Bytes(rest.to_vec(), 0);
        }
    }

    /// What comes next.
    pub(super) fn next(&mut self) -> Result<Next, String> {
        loop {
            let Some(head) = self.head()? else {
                return Ok(self.nothing());
            };
            if head.tag != MESSAGE_TAG {
                // Nobody can receive what never comes: that would hide the end from all who wait.
                let is_cut_short = self.has_ended && head.bytes > (self.end - self.start) as u64;
                return Ok(match is_cut_short {
                    true => self.nothing(),
                    false => Next::Data,
                });
            }
            let taken = (head.bytes as usize).min(self.end - self.start);
            let bytes = &self.buffer[self.start..self.start + taken];
            self.message.extend_from_slice(bytes);
            self.take(taken);
            if self.incoming.is_none() {
                return Ok(Next::Message(std::mem::take(&mut self.message)));
            }
            if !self.fill() {
                return Ok(self.nothing());
            }
        }
    }

    fn nothing(&mut self) -> Next {
        match self.has_ended && !std::mem::replace(&mut self.has_told, self.has_ended) {
            true => Next::End,
            false => Next::Nothing,
        }
    }

    /// Receives data with this tag into `place`, if they come next; returns how many bytes have come. `expected` is the
    /// number of all bytes of the frame, of which `place` is the end. A receiver keeps its ticket.
    pub(super) fn receive(
        &mut self,
        ticket: u64,
        tag: i32,
        place: &mut [u8],
        expected: usize,
    ) -> Result<usize, String> {
        if self.receiver != Some(ticket) {
            match self.head()? {
                Some(head) if head.tag == tag && self.receiver.is_none() => {
                    if head.bytes != expected as u64 {
                        let got = head.bytes;
                        return Err(format!(
                            "expected {expected} bytes with tag {tag}, got {got}"
                        ));
                    }
                    self.receiver = Some(ticket);
                }
                _ => return Ok(0),
            }
        }
        let mut done = place.len().min(self.end - self.start);
        place[..done].copy_from_slice(&self.buffer[self.start..self.start + done]);
        self.take(done);
        while done < place.len()
            && self.is_readable
            && let Some(count) = self.read_into(&mut place[done..])
        {
            done += count;
            self.note(count);
        }
        Ok(done)
    }

    /// The frame under way, or the next if its head has come.
    fn head(&mut self) -> Result<Option<Head>, String> {
        if self.incoming.is_none() {
            while self.end - self.start < HEAD_BYTES {
                if !self.fill() {
                    return Ok(None);
                }
            }
            let text = self.buffer[self.start..].first_chunk();
            let head = Head::decode(text.expect("so many bytes are there"))?;
            self.start += HEAD_BYTES;
            self.incoming = Some(head);
        }
        Ok(self.incoming)
    }

    /// Takes bytes of the frame under way from the buffer.
    fn take(&mut self, count: usize) {
        self.start += count;
        self.note(count);
    }

    fn note(&mut self, count: usize) {
        if let Some(head) = &mut self.incoming {
            head.bytes -= count as u64;
            if head.bytes == 0 {
                self.incoming = None;
                self.receiver = None;
            }
        }
    }

    /// Reads what has come into the buffer; returns whether anything has.
    fn fill(&mut self) -> bool {
        if !self.is_readable {
            return false;
        }
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let mut buffer = std::mem::take(&mut self.buffer);
        let count = self.read_into(&mut buffer[self.end..]);
        self.buffer = buffer;
        self.end += count.unwrap_or(0);
        count.is_some()
    }

    /// Reads what has come, if anything has.
    fn read_into(&mut self, place: &mut [u8]) -> Option<usize> {
        loop {
            match self.stream.read(place) {
                Ok(0) => self.has_ended = true,
                Ok(count) => {
                    // There may be more once the system says so.
                    self.is_readable = count == place.len();
                    return Some(count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::debug!(%error, "a connection between ranks is lost");
                    self.has_ended = true;
                }
            }
            self.is_readable = false;
            return None;
        }
    }

    /// Whether the system is to be asked for bytes to read, and for room to write.
    pub(super) fn waits(&self) -> (bool, bool) {
        let reads = !self.is_readable && !self.has_ended;
        (reads, !self.outgoing.is_empty() && !self.is_writable)
    }

    /// Notes what the system says.
    pub(super) fn woken(&mut self, reads: bool, writes: bool) {
        self.is_readable |= reads && !self.has_ended;
        self.is_writable |= writes;
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
        let mut drained = 0;
        while drained < DRAIN_BYTES
            && let Ok(count) = self.stream.read(&mut self.buffer)
            && count > 0
        {
            drained += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use proptest::prelude::*;

    use super::*;

    fn pair() -> (Peer, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Peer::new(stream).unwrap(), listener.accept().unwrap().0)
    }

    /// What a rank makes of a stream that ends: its messages, and why it stopped.
    fn heard(bytes: &[u8], cuts: &[usize]) -> (Vec<Vec<u8>>, Option<String>) {
        let (mut peer, mut other) = pair();
        let mut messages = Vec::new();
        let mut start = 0;
        let cuts = cuts.iter().map(|cut| cut % (bytes.len() + 1));
        for end in cuts.chain([bytes.len()]) {
            if end > start {
                other.write_all(&bytes[start..end]).unwrap();
                start = end;
            }
            if end == bytes.len() {
                other.shutdown(Shutdown::Write).unwrap();
            }
            loop {
                peer.woken(true, true);
                match peer.next() {
                    Ok(Next::Message(message)) => messages.push(message),
                    Ok(Next::Nothing) if end == bytes.len() => std::thread::yield_now(),
                    Ok(Next::Nothing) => break,
                    Ok(Next::Data) => return (messages, Some("data".to_owned())),
                    Ok(Next::End) => return (messages, None),
                    Err(problem) => return (messages, Some(problem)),
                }
            }
        }
        panic!("the end was not told");
    }

    fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for message in messages {
            let (tag, len) = (MESSAGE_TAG, message.len() as u64);
            bytes.extend(Head { tag, bytes: len }.encode());
            bytes.extend(message);
        }
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn messages_arrive_however_the_stream_is_cut(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20_000), 0..5),
            mut cuts in proptest::collection::vec(any::<usize>(), 0..6),
        ) {
            let bytes = framed(&messages);
            cuts.sort_unstable();
            prop_assert_eq!(heard(&bytes, &cuts), (messages, None));
        }

        #[test]
        fn a_corrupt_stream_is_told_or_ends_and_what_came_before_stands(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 1..5),
            place: usize, bits in 1u8..,
        ) {
            let mut bytes = framed(&messages);
            let place = place % bytes.len();
            bytes[place] ^= bits;
            let (received, _) = heard(&bytes, &[]);
            let mut end = 0;
            for (message, received) in messages.iter().zip(&received) {
                end += HEAD_BYTES + message.len();
                if end > place {
                    break;
                }
                prop_assert_eq!(message, received);
            }
        }
    }

    #[test]
    fn the_end_is_told_where_it_comes_within_data() {
        let frame = Head { tag: 7, bytes: 8 }.encode();
        for sent in 0..8 {
            let (mut peer, mut other) = pair();
            other.write_all(&frame).unwrap();
            other.write_all(&[1; 8][..sent]).unwrap();
            other.shutdown(Shutdown::Write).unwrap();
            let (mut place, mut received) = ([0; 8], 0);
            while !peer.has_ended {
                assert!(!matches!(peer.next().unwrap(), Next::End));
                peer.woken(true, true);
                received += peer.receive(1, 7, &mut place[received..], 8).unwrap();
            }
            assert_eq!(received, sent);
            assert!(matches!(peer.next().unwrap(), Next::End));
            assert!(matches!(peer.next().unwrap(), Next::Nothing));
        }
    }

    #[test]
    fn data_that_have_come_in_whole_are_received_before_the_end_is_told() {
        let (mut peer, mut other) = pair();
        other
            .write_all(&Head { tag: 7, bytes: 8 }.encode())
            .unwrap();
        other.write_all(&[1; 8]).unwrap();
        other.shutdown(Shutdown::Write).unwrap();
        while peer.end - peer.start < 8 || !peer.has_ended {
            peer.woken(true, true);
            peer.fill();
        }
        assert!(matches!(peer.next().unwrap(), Next::Data));
        assert_eq!(peer.receive(1, 7, &mut [0; 8], 8), Ok(8));
        assert!(matches!(peer.next().unwrap(), Next::End));
    }

    #[test]
    fn a_stream_of_something_else_is_refused() {
        let (messages, problem) = heard(b"GET / HTTP/1.1\r\nHost: rank\r\n\r\n", &[]);
        assert!(messages.is_empty());
        assert!(problem.unwrap().contains("the same program"));
    }

    #[test]
    fn data_of_another_size_are_refused() {
        let (mut peer, mut other) = pair();
        let head = Head { tag: 7, bytes: 3 };
        other.write_all(&head.encode()).unwrap();
        let problem = loop {
            peer.woken(true, true);
            match peer.receive(1, 7, &mut [0; 4], 4) {
                Ok(count) => assert_eq!(count, 0),
                Err(problem) => break problem,
            }
        };
        assert!(problem.contains("expected 4 bytes with tag 7, got 3"));
    }

    #[test]
    fn a_message_follows_data_that_were_given_up() {
        let (mut peer, mut other) = pair();
        let data = vec![5; 50_000_000];
        let head = |tag| Head {
            tag,
            bytes: data.len() as u64,
        };
        peer.announce(1, head(9));
        peer.announce(2, head(10));
        // More than the system's buffers take.
        let left = peer.send(1, &data);
        assert!(left > 0);
        peer.give_up(1, &data[data.len() - left..]);
        peer.give_up(2, &data);
        peer.say(b"farewell".to_vec());
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            other.read_to_end(&mut all).unwrap();
            all
        });
        while !peer.push() {
            peer.woken(false, true);
        }
        drop(peer);
        let all = reader.join().unwrap();
        assert!(all[HEAD_BYTES..HEAD_BYTES + data.len()] == data);
        assert_eq!(all[HEAD_BYTES + data.len()..], *b"farewell");
    }
}

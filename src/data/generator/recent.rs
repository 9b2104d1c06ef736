//! The items that each user clicked last: memory by user, not by impression.

/// How many items a user's list holds.
pub(super) const RECENT_ITEMS: usize = 10;

/// A ring of the last clicked items for each user.
pub(super) struct RecentItems {
    /// `[users, RECENT_ITEMS]`.
    items: Vec<u64>,
    /// Clicks of each user so far.
    clicks: Vec<u32>,
}

impl RecentItems {
    pub fn new(users: usize) -> Self {
        Self {
            items: vec![0; users * RECENT_ITEMS],
            clicks: vec![0; users],
        }
    }

    pub fn push(&mut self, user: u32, item: u64) {
        let user = user as usize;
        let place = self.clicks[user] as usize % RECENT_ITEMS;
        self.items[user * RECENT_ITEMS + place] = item;
        // Past the first turn only the place in the ring counts.
        self.clicks[user] += 1;
        if self.clicks[user] as usize == 2 * RECENT_ITEMS {
            self.clicks[user] = RECENT_ITEMS as u32;
        }
    }

    /// The items of a user, latest first.
    pub fn of(&self, user: u32) -> impl Iterator<Item = u64> + '_ {
        let user = user as usize;
        let clicks = self.clicks[user] as usize;
        (1..=clicks.min(RECENT_ITEMS))
            .map(move |back| self.items[user * RECENT_ITEMS + (clicks - back) % RECENT_ITEMS])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ten_come_latest_first() {
        let mut recent = RecentItems::new(2);
        for item in 1..=57 {
            recent.push(1, item);
            let expected: Vec<_> = (1..=item).rev().take(RECENT_ITEMS).collect();
            assert_eq!(recent.of(1).collect::<Vec<_>>(), expected);
        }
        assert_eq!(recent.of(0).count(), 0);
    }
}

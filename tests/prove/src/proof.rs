//! What a proof is: a name, what it shows, how much it must run, its planted faults, and what came out.
//! May not: run anything.

/// A promise of ours, as something that runs.
pub struct Proof {
    /// One word: the name of its module and of its command.
    pub name: &'static str,
    /// What is shown, in one line.
    pub shows: &'static str,
    /// Cases below which it shows nothing.
    pub full: u64,
    /// The same with `--quick`: at least one fifth.
    pub quick: u64,
    /// Runs [`Settings::cases`] cases or more.
    pub run: fn(&Settings) -> Outcome,
    /// Faults that can be planted. With each of them the proof must miss.
    pub plants: &'static [&'static Plant],
}

impl Proof {
    /// Cases that must run.
    pub fn floor(&self, scale: Scale) -> u64 {
        match scale {
            Scale::Full => self.full,
            Scale::Quick => self.quick,
            Scale::Planted => 0,
        }
    }
}

/// A fault that a proof can put between itself and what it looks at.
pub struct Plant {
    /// A few words with hyphens.
    pub name: &'static str,
    /// What is wrong then.
    pub what: &'static str,
    /// Cases within which it must be found.
    pub cases: u64,
}

/// How much runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// What the figures speak of.
    Full,
    /// At least one fifth.
    Quick,
    /// Enough to find a planted fault.
    Planted,
}

/// What a run is given.
pub struct Settings {
    /// All randomness comes from it.
    pub seed: u64,
    /// Cases to run.
    pub cases: u64,
    scale: Scale,
    plant: Option<&'static Plant>,
}

impl Settings {
    pub fn new(seed: u64, scale: Scale, cases: u64, plant: Option<&'static Plant>) -> Self {
        Self { seed, cases, scale, plant }
    }

    /// Whether this fault is planted.
    pub fn has(&self, plant: &'static Plant) -> bool {
        self.plant.is_some_and(|planted| std::ptr::eq(planted, plant))
    }

    /// A count of a full run, scaled to this one; nothing when a fault is planted.
    pub fn scaled(&self, full: u64) -> u64 {
        match self.scale {
            Scale::Full => full,
            Scale::Quick => full.div_ceil(5),
            Scale::Planted => 0,
        }
    }
}

/// Something that was counted besides cases.
pub struct Count {
    pub what: &'static str,
    pub number: u64,
    /// Below it the run shows nothing.
    pub floor: u64,
}

/// What a run found.
#[derive(Default)]
pub struct Outcome {
    /// Cases that ran to their end.
    pub cases: u64,
    /// What was not as promised: one line each, with all that is needed to see it again.
    pub misses: Vec<String>,
    /// What else the closing line says.
    pub counts: Vec<Count>,
    is_broken_off: bool,
}

impl Outcome {
    /// Of a run that may end with an error: that is a miss, but finds no planted fault, for it may be the planting that failed.
    pub fn of(settings: &Settings, run: impl FnOnce(&Settings, &mut Self) -> Result<(), String>) -> Self {
        let mut outcome = Self::default();
        if let Err(miss) = run(settings, &mut outcome) {
            outcome.miss(miss);
            outcome.is_broken_off = true;
        }
        outcome
    }

    /// Of a run that did not come to its end.
    pub fn broken_off() -> Self {
        let misses = vec!["it did not come to its end: see the panic above".to_owned()];
        Self { misses, is_broken_off: true, ..Self::default() }
    }

    /// One more case ran.
    pub fn case(&mut self) {
        self.cases = self.cases.saturating_add(1);
    }

    /// Something is not as promised.
    pub fn miss(&mut self, what: impl Into<String>) {
        self.misses.push(what.into());
    }

    /// With a planted fault only those misses count that are about it: what they say is its sign.
    pub fn keep_signs(&mut self, settings: &Settings, signs: &[(&'static Plant, &str)]) {
        if let Some((_, sign)) = signs.iter().find(|(plant, _)| settings.has(plant)) {
            self.misses.retain(|miss| miss.contains(sign));
        }
    }

    /// Something else that the closing line shows.
    pub fn count(&mut self, what: &'static str, number: u64) {
        self.count_at_least(what, number, 0);
    }

    /// As [`Self::count`]; with less than `floor` the run fails.
    pub fn count_at_least(&mut self, what: &'static str, number: u64, floor: u64) {
        self.counts.push(Count { what, number, floor });
    }

    /// Whether a planted fault was found by what the proof looks for.
    pub fn found_it(&self) -> bool {
        !self.misses.is_empty() && !self.is_broken_off
    }

    /// Why too little ran, if it did.
    pub fn under_floor(&self, cases: u64) -> Vec<String> {
        let all = Count { what: "cases", number: self.cases, floor: cases };
        std::iter::once(&all)
            .chain(&self.counts)
            .filter(|count| count.number < count.floor)
            .map(|count| {
                format!("too little ran: {} {}, at least {} are needed", count.number, count.what, count.floor)
            })
            .collect()
    }
}

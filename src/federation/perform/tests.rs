mod joins;
mod knocks;
mod receiving;
mod resident;

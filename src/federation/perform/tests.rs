mod interrupted_joins;
mod joins;
mod knocks;
mod leaves;
mod receiving;
mod resident;

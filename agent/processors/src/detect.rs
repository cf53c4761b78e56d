//! Robust baselines of metrics and probes; step and spike told apart; nothing learnt while an alarm is open.

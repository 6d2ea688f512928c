//! Wire protocols as sans-IO codecs and automata

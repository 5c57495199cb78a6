//! The certificates of controller and nodes: issued, renewed, rotated.

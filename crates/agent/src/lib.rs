//! Both ends of `quarry.agent.v1`, the protocol between controller and node.

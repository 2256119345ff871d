"""An exchange on its way through four rooms: admit, dispatch, relay, settle."""

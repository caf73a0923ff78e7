"""``python -m quantgate``."""

from quantgate.cli import main

raise SystemExit(main())

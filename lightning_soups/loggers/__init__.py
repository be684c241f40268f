"""What a user's loggers get while cooking and studying: rows for questions, then tables, figures and the soup."""

from lightning_soups.loggers.cook_log import CookLog
from lightning_soups.loggers.study_log import log_study

__all__ = ["CookLog", "log_study"]
